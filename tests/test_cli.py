"The commands, run as a user runs them: exit codes, one line for a mistake, files where they were asked for."
import os, signal, subprocess, sys, time
from pathlib import Path
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def run(command, cwd, **kwargs):
    "The finished process of one of our commands."
    return subprocess.run([BIN/command[0], *map(str, command[1:])], cwd=cwd, capture_output=True, text=True,
                          env=os.environ | {'TQDM_DISABLE': '1'}, **kwargs)


def test_generate_writes_a_picture_named_after_its_caption(tmp_path):
    r = run(['sdn_generate', 'a red apple'], tmp_path)
    assert r.returncode == 0, r.stderr
    assert r.stdout.strip() == 'a-red-apple.png' and Image.open(tmp_path/'a-red-apple.png').size == (64, 64)


def test_generate_several_captions_zoomed_into_a_folder(tmp_path):
    odd = ['a cat', 'a cat', '', '<script>alert(1)</script>', '../../etc/passwd', '\x1b[31mred',
           '🍎', 'красное яблоко', 'x'*10_000]
    r = run(['sdn_generate', *odd, '--zoom', 2, '--out', 'pictures'], tmp_path)
    assert r.returncode == 0, r.stderr
    files = sorted((tmp_path/'pictures').iterdir())
    assert len(files) == len(odd) and all(Image.open(f).size == (128, 128) for f in files)
    assert list(tmp_path.iterdir()) == [tmp_path/'pictures'] and '\x1b' not in r.stdout


@pytest.mark.parametrize('command, says', [
    (['sdn_generate'], 'captions'),
    (['sdn_generate', 'a cat', '--model', 'nowhere'], "'emoji-small'"),
    (['sdn_generate', 'a cat', '--zoom', '0'], '--zoom 0: use 1 to 64'),
    (['sdn_generate', 'a cat', '--out', 'no/such/folder/cat.png'], 'no/such/folder/cat.png'),
    (['sdn_train', '--size', '60'], 'use 64'),
    (['sdn_train', '--data', 'nowhere'], "data='nowhere' is not a folder"),
    (['sdn_train', '--teacher', 'vgg20'], "'vgg19_lite', 'vgg11'"),
    (['sdn_train', '--levels', 'deep=1'], 'low, mid, high'),
    (['sdn_train', '--levels', 'low=much'], 'low=1'),
    (['sdn_train', '--lr', '0'], 'lr=0.0'),
    (['sdn_train', '--resume', 'nowhere'], 'nowhere is no run folder'),
    (['sdn_train', '--resume', 'nowhere', '--lr', '1'], 'leave --lr out'),
    (['sdn_train', '--resume', ''], 'is no run folder'),       # an unset variable of a shell
    (['sdn_train', '--no-such-option'], 'sdn_train --help'),
])
def test_a_mistake_gets_one_line_and_exit_code_2(command, says, tmp_path):
    r = run(command, tmp_path)
    assert r.returncode == 2 and says in r.stderr and len(r.stderr.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())     # nothing was written


@pytest.mark.parametrize('command', ['sdn_train', 'sdn_generate', 'sdn_eval'])
def test_help_names_every_option(command, tmp_path):
    r = run([command, '--help'], tmp_path)
    assert r.returncode == 0 and 'Example' in r.stdout
    if command == 'sdn_train':
        from dataclasses import fields
        from sdn_lite.stages import DistillConfig
        assert all('--' + f.name.replace('_', '-') in r.stdout for f in fields(DistillConfig))


QUICK = ['--size', 32, '--warmup', 3, '--fc-dim', 32, '--batch', 8, '--snapshots', 1]


def test_train_stops_at_ctrl_c_and_goes_on(pictures, tmp_path):
    "Two runs with one seed, one of them interrupted: the same model, bit for bit."
    whole = run(['sdn_train', '--data', pictures, '--out', 'whole', '--epochs', 30, 30, *QUICK], tmp_path)
    assert whole.returncode == 0 and 'Finished: whole/report.png' in whole.stdout, whole.stderr
    p = subprocess.Popen(
        [str(x) for x in (BIN/'sdn_train', '--data', pictures, '--out', 'half', '--epochs', 30, 30, *QUICK)],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    log = tmp_path/'half'/'log.csv'
    while p.poll() is None and not (log.is_file() and len(log.read_text().splitlines()) > 5): time.sleep(.02)
    p.send_signal(signal.SIGINT); out, _ = p.communicate(timeout=60)
    assert p.returncode == 130 and 'sdn_train --resume half' in out and (tmp_path/'half/checkpoint/state.pt').is_file()
    r = run(['sdn_train', '--resume', 'half'], tmp_path)
    assert r.returncode == 0, r.stderr
    assert ((tmp_path/'half/model/model.safetensors').read_bytes()
            == (tmp_path/'whole/model/model.safetensors').read_bytes())
    assert run(['sdn_generate', 'an apple', '--model', 'half'], tmp_path).returncode == 0
    again = run(['sdn_train', '--data', pictures, '--out', 'half', *QUICK], tmp_path)
    assert again.returncode == 2 and 'Nothing is overwritten' in again.stderr


def test_generating_imports_neither_plots_nor_training(tmp_path):
    "What makes `sdn_generate` slow to start must stay out of it."
    code = ('import sys; from sdn_lite.pipeline import TextToImage; '
            "print([m for m in ('matplotlib', 'accelerate', 'tqdm.auto', 'IPython') if m in sys.modules])")
    r = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert 'matplotlib' not in r.stdout and 'accelerate' not in r.stdout and 'IPython' not in r.stdout, r.stdout
