#!/usr/bin/env python3
"""Everything that must hold, in one go: `make test`.

1. the library is what the notebooks export, and the notebooks are clean, small and not too wide;
2. every notebook runs from top to bottom;
3. pytest, in two processes of one thread each: all but the tests marked `slow`; `make test-all` runs these too.
"""
import hashlib, json, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
os.environ['PATH'] = f'{BIN}{os.pathsep}{os.environ["PATH"]}'
os.environ.update(MPLBACKEND='Agg', TQDM_DISABLE='1')


def step(title, command, cwd=ROOT, **env):
    "Run one command; stop everything if it fails."
    start = time.monotonic(); print(f'== {title}', flush=True)
    code = subprocess.run([str(c) for c in command], cwd=cwd, env=os.environ | env).returncode
    print(f'   {title}: {"ok" if code == 0 else "FAILED"}, {time.monotonic() - start:.0f} s', flush=True)
    if code: sys.exit(f'{title} failed')


def fingerprint(root):
    "What export and clean may change: the modules and the notebooks."
    files = sorted([*root.glob('sdn_lite/*.py'), *root.glob('nbs/**/*.ipynb')])
    return {str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def check_export():
    "Export and clean a copy; nothing may differ."
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp)/'copy'
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(
            '.venv', '.git', 'runs', 'build', '__pycache__', '*.egg-info', 'assets'))
        before = fingerprint(copy)
        for tool in ('nbdev_export', 'nbdev_clean'): step(tool, [BIN/tool], cwd=copy)
        changed = [f for f, h in fingerprint(copy).items() if before.get(f) != h]
    if changed: sys.exit(f'{", ".join(changed)}: edit the notebooks, then run nbdev_export and nbdev_clean')


def check_notebooks():
    "Small, with their pictures, and no code that has to be scrolled sideways."
    for f in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in f.parts: continue             # JupyterLab's own copies
        if f.stat().st_size > 2e6: sys.exit(f'{f}: {f.stat().st_size/1e6:.1f} MB, at most 2 MB')
        cells = json.loads(f.read_text(encoding='utf-8'))['cells']
        for line in (line for c in cells if c['cell_type'] == 'code' for line in ''.join(c['source']).split('\n')):
            if len(line) > 120: sys.exit(f'{f}: {line.strip()[:60]}… has {len(line)} characters, at most 120 are seen at once')
        draws = [c for c in cells if c['cell_type'] == 'code'
                 and any(w in ''.join(c['source']) for w in ('plt.show()', '\nshow_images('))]
        for c in draws:
            if not any('image/png' in o.get('data', {}) for o in c['outputs']):
                sys.exit(f'{f}: a cell that draws has lost its picture; run the notebook and save it')


def debian():
    """Debian's chromium for the tests in a browser, and locales for one, where they are missing and we may install
    them; without them these tests are skipped, or fail where CI is set."""
    lacks = ([] if any(map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')))
             else ['chromium', 'fonts-dejavu-core'])
    if not Path('/usr/share/i18n/locales/de_DE').exists(): lacks.append('locales')
    if not lacks: return
    if not shutil.which('apt-get') or not hasattr(os, 'geteuid') or os.geteuid():
        return print(f'== {" and ".join(lacks)} missing: some tests are skipped', flush=True)
    for command in (['update', '-qq'], ['install', '-y', '-qq', '--no-install-recommends', *lacks]):
        if subprocess.run(['apt-get', *command], env=os.environ | dict(DEBIAN_FRONTEND='noninteractive'),
                          stdout=subprocess.DEVNULL).returncode:
            return print(f'== {" and ".join(lacks)} could not be installed', flush=True)


if __name__ == '__main__':
    check_export(); check_notebooks()
    step('README.md agrees with nbs/index.ipynb', [sys.executable, 'tools/make_readme.py', '--check'])
    with tempfile.TemporaryDirectory() as cache:
        step('notebooks', [BIN/'nbdev_test', '--n_workers', '1', '--do_print', '--timing',
                           '--skip_file_re', r'^[_.]|^scale\.ipynb$'], SDN_LITE_CACHE=cache)
        # nbdev_test runs all of them in one process; this one starts processes, which accelerate allows
        # in a fresh kernel only
        step('the notebook that starts processes',
             [BIN/'jupyter', 'nbconvert', '--to', 'notebook', '--execute', '--output-dir', cache,
              'nbs/labs/scale.ipynb'], SDN_LITE_CACHE=cache)
    debian()
    # A file's tests stay together: some share a server or a training
    step('pytest', [sys.executable, '-m', 'pytest', '-q', '-n', '2', '--dist', 'loadfile', 'tests', *sys.argv[1:]],
         OMP_NUM_THREADS='1')
