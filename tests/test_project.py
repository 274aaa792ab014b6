"Facts about the project as a whole: pages that agree, sizes, licences, nothing of one machine."
import re, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT/'sdn_lite'/'assets'
LESSONS = [f for f in sorted((ROOT/'nbs').glob('0*.ipynb'))]


def test_readme_is_made_from_the_index():
    r = subprocess.run([sys.executable, ROOT/'tools/make_readme.py', '--check'], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r'\]\((?!http)([^)#]+)\)', (ROOT/'README.md').read_text(encoding='utf-8')):
        assert (ROOT/target).is_file(), target


@pytest.mark.parametrize('name, most', [
    ('emoji.*', 7e6), ('vgg19_lite.safetensors', 6e6), ('char_cnn_rnn.safetensors', 6e6)])
def test_bundled_files_are_small(name, most):
    files = list(ASSETS.glob(name))
    assert files and sum(f.stat().st_size for f in files) <= most


def test_every_bundled_file_is_described_with_a_licence():
    page = (ASSETS/'README.md').read_text(encoding='utf-8')
    for f in ASSETS.iterdir(): assert f.name in page or f.name in ('README.md', '__pycache__'), f.name
    assert len(list((ASSETS/'LICENSES').iterdir())) == 3


@pytest.mark.parametrize('file', LESSONS, ids=lambda f: f.stem)
def test_a_lesson_says_what_it_teaches_how_long_it_runs_and_ends_with_exercises(file):
    text = file.read_text(encoding='utf-8')
    assert 'After this notebook you can' in text and 'on two CPU cores' in text
    assert '## Exercises' in text and text.count('<details><summary>Solution') == 3


def test_import_loads_no_plotting_and_no_training_library():
    code = ('import sys, sdn_lite.all; '
            "print(*[m for m in ('matplotlib', 'accelerate', 'IPython', 'ipywidgets') if m in sys.modules])")
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == ''


# ---------------------------------------------------------------- the audit

@pytest.fixture(scope='module')
def audit():
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location('audit', ROOT/'tools/audit.py')
    module = module_from_spec(spec); spec.loader.exec_module(module)
    return module


def test_audit_asks_for_everything_that_is_required(audit):
    packages = audit.installed('sdn_lite')
    assert ({'torch', 'torchvision', 'numpy', 'huggingface-hub', 'filelock', 'sympy'} <= set(packages)
            and 'sdn-lite' not in packages)
    assert not any('+' in v for v in packages.values())


@pytest.mark.parametrize('out, code, says', [
    ({'dependencies': [{'name': 'a', 'version': '1', 'vulns': []}, {'name': 'b', 'version': '1', 'vulns': []}]},
     0, '2 of 2 packages checked, 0 with'),
    ({'dependencies': [{'name': 'a', 'version': '1',
                        'vulns': [{'id': 'PYSEC-1', 'aliases': ['CVE-2'], 'fix_versions': ['1.1']}]},
                       {'name': 'b', 'skip_reason': 'x'}]},
     1, 'a 1: PYSEC-1 CVE-2, repaired in 1.1'),
    ({'dependencies': [{'name': 'a', 'version': '1', 'vulns': []}, {'name': 'b', 'skip_reason': 'not found'}]},
     2, "didn't answer for 1: b. Run `make audit` where"),
    ({'dependencies': []}, 2, '0 of 2 packages checked'),
    ('', 2, 'nothing was checked (no route to host)'),
], ids=['sound', 'vulnerable', 'skipped', 'empty', 'no network'])
def test_audit_passes_only_what_was_checked(audit, out, code, says):
    import json
    got, said = audit.verdict(json.dumps(out) if out else '', 'Traceback\nno route to host\n', 2)
    assert got == code and says in said
