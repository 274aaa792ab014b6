"Everything is in settings.ini; this file hands it to setuptools."
from configparser import ConfigParser
from pathlib import Path
import shlex
from setuptools import find_packages, setup

cfg = ConfigParser(delimiters=['=']); cfg.read('settings.ini', encoding='utf-8')
s = cfg['DEFAULT']
extra = {name.removesuffix('_requirements'): shlex.split(s[name]) for name in s if name.endswith('_requirements')}

setup(
    name=s['lib_name'], version=s['version'], description=s['description'],
    author=s['author'], author_email=s['author_email'],
    license='Apache-2.0', license_files=['LICENSE', 'sdn_lite/assets/LICENSES/*'],
    url=s['git_url'], keywords=s['keywords'],
    long_description=Path('README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=['sdn_lite', 'sdn_lite.*']), include_package_data=True, zip_safe=False,
    package_data={'sdn_lite': ['assets/*', 'assets/*/*', 'assets/classroom/**/*']},
    install_requires=shlex.split(s['requirements']), extras_require=extra, python_requires=f">={s['min_python']}",
    entry_points={'console_scripts': [line.strip() for line in s['console_scripts'].splitlines()],
                  'nbdev': [f"{s['lib_name']}={s['lib_name']}._modidx:d"]},
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Education', 'Intended Audience :: Developers',
                 'Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
)
