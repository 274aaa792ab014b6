"""What users get: the wheel, in an environment that holds nothing of ours,
used from a folder that is not the repository."""
import configparser, importlib.metadata as meta, os, re, shlex, shutil, subprocess, sys, tarfile, zipfile
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT/'sdn_lite/assets'
# 5 GB that the quick test borrows instead of installing
BIG = re.compile(r'torch|torchvision|triton|(nvidia|cuda)[-_].*')
PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '-q']
# Where a person works: no variables that point into the repository
ENV = {k: v for k, v in os.environ.items()
       if k not in ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'SDN_LITE_CACHE')} | dict(TQDM_DISABLE='1')

def run(command, cwd, **kwargs):
    r = subprocess.run([str(c) for c in command], cwd=cwd, env=ENV, capture_output=True, text=True, **kwargs)
    assert r.returncode == 0, f'{command}\n{r.stdout[-2000:]}\n{r.stderr[-4000:]}'
    return r.stdout

def ours():
    "The files of the working tree that git doesn't ignore."
    if not (ROOT/'.git').exists(): pytest.skip('no git working tree')
    return [f for f in subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=ROOT,
                                      capture_output=True, text=True, check=True).stdout.split('\0')
            if f and (ROOT/f).is_file()]

@pytest.fixture(scope='session')
def dist(tmp_path_factory):
    "An sdist of the working tree, and the wheel that is built from the sdist alone."
    copy, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('dist')
    for f in ours(): (copy/f).parent.mkdir(parents=True, exist_ok=True); shutil.copy(ROOT/f, copy/f)
    run([sys.executable, '-m', 'build', '--outdir', out, copy], copy)
    return next(out.glob('*.tar.gz')), next(out.glob('*.whl'))


# ---------------------------------------------------------------- what is in it

def test_sdist_holds_what_a_build_needs_and_is_small(dist):
    with tarfile.open(dist[0]) as t: names = {n.partition('/')[2] for n in t.getnames()}
    assert {'LICENSE', 'README.md', 'settings.ini', 'setup.py', 'pyproject.toml', 'MANIFEST.in'} <= names
    assert {f for f in ours() if f.startswith('sdn_lite/')} <= names
    assert dist[0].stat().st_size < 40e6, dist[0].stat().st_size

def test_wheel_holds_modules_assets_and_licences_and_nothing_else(dist):
    with zipfile.ZipFile(dist[1]) as z: names = set(z.namelist())
    inside = {n for n in names if '.dist-info/' not in n}
    assert inside == {f for f in ours() if f.startswith('sdn_lite/')}
    licences = {Path(n).name for n in names if '.dist-info/licenses/' in n}
    assert licences == {'LICENSE', *(f.name for f in (ASSETS/'LICENSES').iterdir())}
    assert dist[1].stat().st_size < 40e6, dist[1].stat().st_size

def test_every_bundled_file_has_a_source_and_a_licence():
    """Each file below assets/ is a row of its README, or lies in a folder that is one;
    each row names its licence, and the text of each licence is there."""
    rows = [[c.strip() for c in l.strip('|').split('|')]
            for l in (ASSETS/'README.md').read_text(encoding='utf-8').splitlines() if l.startswith('| `')]
    listed = {r[0].strip('`'): r for r in rows}
    for f in ours():
        name = f.removeprefix('sdn_lite/assets/')
        if name == f or name == 'README.md' or name.startswith('LICENSES/'): continue
        assert name in listed or f'{name.split("/")[0]}/' in listed, f'{f} is missing in sdn_lite/assets/README.md'
    for name, row in listed.items():
        assert (ASSETS/name).exists(), f'sdn_lite/assets/README.md names {name}, which is not there'
        assert len(row) == 6 and all(row) and row[4] in ('Apache-2.0', 'MIT'), row
    texts = ''.join(f.read_text(encoding='utf-8') for f in (ASSETS/'LICENSES').iterdir())
    assert ('Apache License' in texts and 'MIT License' in texts
            and 'Apache License' in (ROOT/'LICENSE').read_text(encoding='utf-8'))


# ---------------------------------------------------------------- installed and used

def new_environment(folder):
    run([sys.executable, '-m', 'venv', folder], folder.parent)
    return folder/('Scripts' if os.name == 'nt' else 'bin')

def lend_big(bin, to):
    "Let the environment see this one's PyTorch, as installed, and nothing else of it."
    to.mkdir()
    for d in meta.distributions():
        if not BIG.fullmatch(d.metadata['Name'].lower()): continue
        for top in {f.parts[0] for f in d.files or ()} - {'..', '__pycache__'}:
            source = Path(d.locate_file(top))
            if source.exists() and not (to/top).exists(): (to/top).symlink_to(source, source.is_dir())
    site = run([bin/'python', '-c', "import sysconfig; print(sysconfig.get_path('purelib'))"], to.parent).strip()
    (Path(site)/'borrowed.pth').write_text(f'{to}\n')

USE = """
import sdn_lite, importlib.util, sys
from pathlib import Path
assert Path(sdn_lite.__file__).is_relative_to(sys.prefix), sdn_lite.__file__
assert not [m for m in ('nbdev', 'pytest', 'hypothesis') if importlib.util.find_spec(m)]
import sdn_lite.all, sdn_lite.cli, sdn_lite.widgets, sdn_lite.classroom
"""

def use(bin, folder):
    "Check, draw, train a little, and draw with what was trained."
    folder.mkdir()
    assert 'No broken requirements' in run([bin/'python', '-m', 'pip', 'check'], folder)
    run([bin/'python', '-c', USE], folder)
    assert (run([bin/'sdn_generate', 'a red apple'], folder).strip() == 'a-red-apple.png'
            and (folder/'a-red-apple.png').stat().st_size > 1000)
    run([bin/'sdn_train', '--quiet', '--size', 32, '--fc-dim', 32, '--warmup', 3, '--batch', 64, '--epochs', 1, 1,
         '--snapshots', 1, '--out', 'run'], folder)
    run([bin/'sdn_train', '--resume', 'run'], folder)
    run([bin/'sdn_generate', 'a red apple', 'a cat', '--model', 'run', '--out', 'drawn'], folder)
    assert ({f.name for f in (folder/'drawn').iterdir()} == {'a-red-apple.png', 'a-cat.png'}
            and (folder/'run/report.png').is_file())
    assert '--port' in run([bin/'sdn_demo', '--help'], folder)
    trace = ('import torch; from sdn_lite.all import MemoryTrace\n'
             'with MemoryTrace() as m: a = torch.ones(100); b = a + 1; del a; c = b.exp()\n'
             'print(m.trace)')
    assert run([bin/'python', '-c', trace], folder).strip() == '[0, 400, 800, 800]'
    names = ('torch torchvision fastcore numpy matplotlib ipywidgets accelerate safetensors '
             'huggingface_hub tqdm filelock').split()
    print(run([bin/'python', '-c', 'import sys, importlib.metadata as m; print("python", sys.version.split()[0], '
               f'*[f"{{n}} {{m.version(n)}}" for n in {names}])'], folder))

@pytest.mark.skipif(os.name == 'nt', reason='links need rights on Windows')
def test_installed_into_an_empty_environment_it_works(dist, tmp_path):
    "All requirements are installed by pip; PyTorch, which is 5 GB, is borrowed. The slow tests borrow nothing."
    bin = new_environment(tmp_path/'env'); lend_big(bin, tmp_path/'big')
    run([bin/'python', '-m', 'pip', 'install', '-q', dist[1]], tmp_path)
    use(bin, tmp_path/'work')

def requirements():
    ini = configparser.ConfigParser(delimiters=['=']); ini.read(ROOT/'settings.ini', encoding='utf-8')
    return shlex.split(ini['DEFAULT']['requirements'])

@pytest.mark.slow
@pytest.mark.parametrize('versions', ['newest', 'newest, fastcore 1', 'oldest'])
def test_installed_from_nothing_it_works(dist, tmp_path, versions):
    """5 GB each, removed afterwards.
    'newest' brings fastcore 2; 'oldest' takes the lowest version that settings.ini allows of every requirement."""
    bin = new_environment(tmp_path/'env'); limits = tmp_path/'limits.txt'
    limits.write_text('\n'.join(
        dict(newest=['fastcore>=2'], oldest=[r.replace('>=', '==') for r in requirements()])
        .get(versions, ['fastcore<2'])))
    try:
        run([bin/'python', '-m', 'pip', 'install', '-q', '--no-cache-dir', '-c', limits, dist[1]], tmp_path)
        use(bin, tmp_path/'work')
    finally: shutil.rmtree(tmp_path/'env')
