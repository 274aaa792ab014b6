"""Kill -9, full disks, turned bits, two programs in one folder, odd surroundings: a run goes on,
or one sentence says why not."""
import multiprocessing, os, random, shutil, signal, subprocess, sys, time
from dataclasses import asdict
from pathlib import Path
import matplotlib.figure
import pytest, torch
from sdn_lite import stages
from sdn_lite.stages import DistillConfig, Run, check_made, distill, load_checkpoint
from conftest import assert_same_weights, losses, tree

ROOT = Path(__file__).resolve().parent.parent
# Children are forked from a process that has imported everything already: a kill takes a second, not ten
FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['accelerate', 'torchvision.utils', 'matplotlib.figure', 'sdn_lite.all'])


# ---------------------------------------------------------------- kill -9

INSIDE = ('half written', 'written', 'half sealed', 'sealed', 'previous renamed', 'renamed')

def die(): os.kill(os.getpid(), signal.SIGKILL)

def die_inside(where, nth):
    "Kill this process at one place inside the writing of its `nth` checkpoint."
    save, seal, rename, count = torch.save, stages.seal, os.replace, 0
    def torch_save(state, file):
        nonlocal count
        count += 1; save(state, file)
        if count == nth and where == 'half written': os.truncate(file, os.path.getsize(file)//2); die()
        if count == nth and where == 'written': die()
    def sealed(file):
        seal(file)
        if count == nth and where == 'half sealed': os.truncate(file, os.path.getsize(file) - 20); die()
        if count == nth and where == 'sealed': die()
    def renamed(a, b):
        rename(a, b)
        if count == nth and (where, Path(b).name) in (
                ('previous renamed', 'state.previous.pt'), ('renamed', 'state.pt')):
            die()
    torch.save, stages.seal, os.replace = torch_save, sealed, renamed

def child(config, where=None, nth=0, resume=True):
    torch.set_num_threads(1)
    multiprocessing.set_start_method('fork', force=True)   # as in a program that was not forked itself
    stages.report_figure = lambda *_: matplotlib.figure.Figure((1, 1))
    if where: die_inside(where, nth)
    distill(config, resume=resume, progress=False)

def start(*args, **kwargs): p = FORKS.Process(target=child, args=args, kwargs=kwargs); p.start(); return p

def finish(p): p.join(); assert p.exitcode == 0, p.exitcode

def wait_for(p, true):
    "Wait until `true()`, or the end of process `p`."
    while p.is_alive() and not true(): time.sleep(.002)

def stage_of(config):
    "The stage of the last line in the log: 0 before the first."
    file = Path(config.out)/'log.csv'
    rows = [l.split(',') for l in file.read_text().splitlines()[1:]] if file.is_file() else []
    return max((int(r[1]) for r in rows if len(r) > 1 and r[1].isdigit()), default=0)

def killed(config, kind, rnd, seconds):
    "Go on with the run of `config` and kill it. False if it came to its end before."
    if kind in INSIDE: p = start(config, kind, rnd.randint(1, 4))
    else:
        p = start(config)
        if kind == 'anywhere': p.join(rnd.uniform(0, seconds))
        else:
            wait_for(p, lambda: stage_of(config) == kind)
            p.join(rnd.uniform(0, seconds/3))
        p.kill()
    p.join(); assert p.exitcode in (0, -signal.SIGKILL), p.exitcode
    return p.exitcode != 0

def assert_same_run(a, b):
    assert_same_weights(a, b)
    assert losses(a) == losses(b) and not list(a.folder.rglob('*.part'))
    for name in ('model/model.safetensors', 'checkpoint/stage1.safetensors'):
        assert (a.folder/name).read_bytes() == (b.folder/name).read_bytes()

@pytest.fixture(scope='module')
def whole(pictures, tmp_path_factory):
    "A run that nobody kills, its settings, and how long it took."
    config = DistillConfig(data=str(pictures), out=str(tmp_path_factory.mktemp('whole')/'run'), size=32, fc_dim=32,
                           epochs=(8, 8), warmup=3, batch=8, snapshots=4, save_seconds=0)
    finish(start(config)); began = time.monotonic()
    other = DistillConfig(**asdict(config) | dict(out=config.out + '2'))
    finish(start(other)); seconds = time.monotonic() - began
    assert_same_run(Run(other.out), Run(config.out))
    return Run(config.out), config, seconds

def kill_all(kinds, whole, folder, seed):
    """Kill a run in each of these ways, in this order, going on after each; begin another when it is done.
    How often each stage was hit."""
    run, config, seconds = whole
    rnd, hit, lives, kinds = random.Random(seed), [0, 0, 0], 0, list(kinds)
    while kinds:
        lives += 1; mine = DistillConfig(**asdict(config) | dict(out=str(folder/f'run{lives}'))); step = 0
        while kinds and (kinds[0] != 1 or stage_of(mine) < 2) and killed(mine, kinds[0], rnd, seconds):
            print('killed:', kinds.pop(0), 'in stage', stage_of(mine)); hit[stage_of(mine)] += 1
            if not (Path(mine.out)/'config.json').is_file(): continue
            saved = load_checkpoint(Run(mine.out), mine)
            at = saved['at']['step'] if saved else 0
            assert at >= step; step = at                                # nothing that was saved is lost
        finish(start(mine)); assert_same_run(Run(mine.out), run)
    return hit

def test_killed_three_times_it_ends_with_the_same_weights(whole, tmp_path):
    assert sum(kill_all([1, 'previous renamed', 2], whole, tmp_path, 0)) == 3

@pytest.mark.slow
def test_killed_thirty_times_it_ends_with_the_same_weights(whole, tmp_path):
    rnd = random.Random(1)
    kinds = [k for n in range(6) for k in ('anywhere', 1, INSIDE[n], 2, ('anywhere', INSIDE[-n])[n % 2])]
    hit = kill_all(kinds, whole, tmp_path, rnd.random())
    assert sum(hit) == 30 and min(hit[1:]) >= 6, hit

@pytest.mark.parametrize('where', INSIDE)
def test_killed_inside_the_writing_one_checkpoint_is_whole(whole, tmp_path, where):
    run, config, seconds = whole
    config = DistillConfig(**asdict(config) | dict(out=str(tmp_path/'run')))
    p = start(config, where, 3); p.join()
    assert p.exitcode == -signal.SIGKILL
    saved = load_checkpoint(Run(config.out), config)
    assert saved['at']['step'] == (9 if where == 'renamed' else 6)


# ---------------------------------------------------------------- a full disk

@pytest.fixture
def small_disk(tmp_path):
    """A disk of as many bytes as one asks for.
    Only root may mount one; test_stages.py fills disks in ways that need no rights."""
    if not hasattr(os, 'geteuid') or os.geteuid() or not shutil.which('mount'):
        pytest.skip('only root may mount a small disk')
    disk = tmp_path/'disk'; disk.mkdir()
    def mount(size):
        r = subprocess.run(['mount', '-t', 'tmpfs', '-o', f'{"remount," if os.path.ismount(disk) else ""}size={size}',
                            'tmpfs', disk], capture_output=True, text=True)
        if r.returncode: pytest.skip(f'mount: {r.stderr.strip()}')
        return disk
    yield mount
    if os.path.ismount(disk): subprocess.run(['umount', disk], check=True)

def test_full_disk_keeps_the_checkpoints_and_more_space_lets_it_go_on(whole, small_disk):
    run, config, seconds = whole
    size = (run.folder/'checkpoint/state.pt').stat().st_size
    config = DistillConfig(**asdict(config) | dict(out=str(small_disk(size*5//2)/'run')))
    p = start(config); p.join()
    assert p.exitcode == 1
    folder = Path(config.out)/'checkpoint'
    assert {f.name for f in folder.iterdir()} == {'state.pt', 'state.previous.pt'}      # no half of a third one
    assert load_checkpoint(Run(config.out), config)['at']['step'] == 6
    small_disk(size*8)
    finish(start(config)); assert_same_run(Run(config.out), run)


# ---------------------------------------------------------------- a bit that turns over

def turn(file, bit):
    "Turn one bit of `file` over."
    with open(file, 'r+b') as f:
        f.seek(bit//8); b = f.read(1)[0]; f.seek(bit//8); f.write(bytes([b ^ 1 << bit % 8]))

@pytest.fixture
def stopped(whole, tmp_path):
    "The settings of a run that was killed in Stage-II, with two checkpoints: of steps 27 and 30."
    run, config, seconds = whole
    config = DistillConfig(**asdict(config) | dict(out=str(tmp_path/'run')))
    # eight of Stage-I, one between the stages, two of Stage-II
    p = start(config, 'renamed', 11); p.join()
    return config

def test_any_turned_bit_is_noticed_and_the_checkpoint_before_is_used(stopped, capsys):
    run = Run(stopped.out); file = run.folder/'checkpoint/state.pt'
    size = 8*file.stat().st_size; rnd = random.Random(0)
    assert load_checkpoint(run, stopped)['at']['step'] == 30 and capsys.readouterr().out == ''
    for bit in [0, 8*100, size - 1, size - 8*73, size - 8*74, *(rnd.randrange(size) for _ in range(40))]:
        turn(file, bit)
        assert load_checkpoint(run, stopped)['at']['step'] == 27
        said = capsys.readouterr().out
        assert (said.count('\n') == 1 and 'checkpoint/state.pt is damaged (its ' in said
                and 'The one before it is used, of step 27' in said)
        turn(file, bit)
    assert load_checkpoint(run, stopped)['at']['step'] == 30

def test_run_with_a_damaged_checkpoint_ends_with_the_same_weights(stopped, whole):
    turn(Path(stopped.out)/'checkpoint/state.pt', 80_000)
    finish(start(stopped)); assert_same_run(Run(stopped.out), whole[0])

def test_damaged_checkpoint_never_replaces_a_good_one(stopped, capsys):
    "Killed at the worst moment after going on from the one before: that one is still there."
    folder = Path(stopped.out)/'checkpoint'
    turn(folder/'state.pt', 80_000); before = (folder/'state.previous.pt').read_bytes()
    p = start(stopped, 'sealed', 1); p.join()
    assert ((folder/'state.previous.pt').read_bytes() == before
            and load_checkpoint(Run(stopped.out), stopped)['at']['step'] == 27)
    p = start(stopped, 'renamed', 1); p.join()
    assert (folder/'state.previous.pt').read_bytes() == before
    capsys.readouterr()
    assert load_checkpoint(Run(stopped.out), stopped)['at']['step'] == 30 and not capsys.readouterr().out

def test_two_damaged_checkpoints_are_both_named(stopped):
    for name in ('state.pt', 'state.previous.pt'): turn(Path(stopped.out)/'checkpoint'/name, 80_000)
    before = tree(Path(stopped.out))
    with pytest.raises(ValueError, match=r'state\.pt is damaged .*state\.previous\.pt is damaged .*: '
                                         r'remove them to start this run again'):
        distill(stopped.out, progress=False)
    assert tree(Path(stopped.out)) == before


# ---------------------------------------------------------------- two programs in one folder

def test_second_program_is_refused_and_a_killed_one_leaves_no_lock(whole, tmp_path):
    run, config, seconds = whole
    # workers are forked with the lock in their hands
    config = DistillConfig(**asdict(config) | dict(out=str(tmp_path/'run'), epochs=(500, 500), workers=2))
    p = start(config); wait_for(p, lambda: stage_of(config) == 1)
    try:
        before = (tmp_path/'run/config.json').read_bytes()
        with pytest.raises(ValueError, match=rf"out='{config.out}' is in use: another process is training there; "
                                             r"wait until it has ended, or choose another folder"):
            distill(config, resume=True, progress=False)
        r = subprocess.run([sys.executable, '-m', 'sdn_lite.cli', '--resume', config.out],
                           capture_output=True, text=True)
        assert r.returncode == 2 and 'is in use' in r.stderr and r.stderr.count('\n') == 1
        assert p.is_alive() and (tmp_path/'run/config.json').read_bytes() == before
    finally: p.kill(); p.join()
    p = start(config); wait_for(p, lambda: len((tmp_path/'run/log.csv').read_text().splitlines()) > 30)
    assert p.is_alive(); p.kill(); p.join()

def test_two_that_start_in_one_moment_one_is_refused(whole, tmp_path):
    run, config, seconds = whole
    # runs longer than the other waits
    both = [DistillConfig(**asdict(config) | dict(out=str(tmp_path/'run'), epochs=(300, 1), lr=lr))
            for lr in (config.lr, config.lr/2)]
    two = [start(c, resume=False) for c in both]
    wait_for(two[0], lambda: not two[1].is_alive())
    assert sorted(p.is_alive() for p in two) == [False, True] and [p.exitcode for p in two if not p.is_alive()] == [1]
    winner = two[0] if two[0].is_alive() else two[1]
    assert Run(tmp_path/'run').config == both[two.index(winner)]        # the folder says what is trained in it
    winner.kill(); winner.join()

def test_notebook_may_train_again_after_an_error_or_a_stop(tiny, finished, quick_report):
    def fail(*_): raise RuntimeError('from a callback')
    # `kept` keeps the frames alive, as a notebook does
    with pytest.raises(RuntimeError) as kept: distill(tiny(), progress=False, callback=fail)
    first = distill(tiny(), resume=True, progress=False,
                    callback=lambda run, stage, step, student: os.kill(os.getpid(), signal.SIGINT))
    assert not first.finished
    assert_same_weights(distill(tiny(), resume=True, progress=False), finished)

def test_processes_of_one_training_do_not_refuse_each_other(pictures, tmp_path):
    command = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', '-m', 'sdn_lite.cli',
               '--data', pictures, '--out', 'run', '--size', 32, '--fc-dim', 32, '--warmup', 3, '--epochs', 1, 1,
               '--batch', 8, '--snapshots', 1, '--quiet']
    r = subprocess.run([sys.executable, *map(str, command)], cwd=tmp_path, capture_output=True, text=True,
                       env=os.environ | dict(ACCELERATE_USE_CPU='true', OMP_NUM_THREADS='1'))
    assert r.returncode == 0, r.stderr[-2000:]
    run = Run(tmp_path/'run')
    assert (run.finished and run.log()['step'] == list(range(1, 7))
            and load_checkpoint(run, run.config)['made']['processes'] == 2)


# ---------------------------------------------------------------- odd surroundings

TRAIN = """
import os, signal, sys
from pathlib import Path
from sdn_lite.all import *
from sdn_lite.cli import sdn_generate
stop = lambda run, stage, step, student: step == 8 and os.kill(os.getpid(), signal.SIGINT)
config = DistillConfig(data=sys.argv[1], out=sys.argv[2], size=32, fc_dim=32, epochs=(2, 2), warmup=3, batch=8, snapshots=6)
assert not distill(config, progress=False, callback=stop).finished
run = distill(sys.argv[2], progress=False)
assert run.finished and Run(run.folder).log()['step'] == list(range(1, 13)), run
sdn_generate(['a red apple', 'ein grüner Apfel', '--model', str(run.folder), '--out', str(run.folder/'drawn')])
"""
CLOCK = """
import time
now = [2e9]
def earlier(): now[0] -= 3600; return now[0]
time.time, time.time_ns = earlier, lambda: int(earlier()*1e9)
"""
NOBODY = """
import os, pwd
def getpwuid(uid): raise KeyError('getpwuid(): uid not found')
pwd.getpwuid = getpwuid
"""

def same_in(prelude, pictures, out, finished, **env):
    "Train, stop, go on and draw in a process of its own, with these variables (None: without)."
    env = {k: v for k, v in (os.environ | env).items() if v is not None}
    r = subprocess.run([sys.executable, '-c', prelude + TRAIN, str(pictures), str(out)],
                       capture_output=True, encoding='utf-8', env=env, cwd=out.parent)
    assert r.returncode == 0, r.stderr
    assert_same_weights(Run(out), finished)
    assert losses(Run(out)) == losses(finished)
    assert {f.name for f in (out/'drawn').iterdir()} == {'a-red-apple.png', 'ein-gruner-apfel.png'}
    return r

def test_clock_that_goes_backwards(pictures, tmp_path, finished):
    same_in(CLOCK, pictures, tmp_path/'run', finished)
    assert min(Run(tmp_path/'run').log()['images_per_second']) > 0

@pytest.fixture(scope='session')
def german(tmp_path_factory):
    "A folder with a locale that writes 0,5 for a half."
    folder = tmp_path_factory.mktemp('locale')
    made = shutil.which('localedef') and subprocess.run(
        ['localedef', '-i', 'de_DE', '-f', 'UTF-8', folder/'de_DE.UTF-8'], capture_output=True)
    if not made or not (folder/'de_DE.UTF-8').exists():
        (pytest.fail if os.environ.get('CI') else pytest.skip)(
            "no locale with decimal commas: install Debian's package locales")
    return folder

def test_locale_with_decimal_commas(pictures, tmp_path, finished, german):
    prelude = ("import locale; locale.setlocale(locale.LC_ALL, 'de_DE.UTF-8'); "
               "assert locale.localeconv()['decimal_point'] == ',' and f'{.5:n}' == '0,5'\n")
    same_in(prelude, pictures, tmp_path/'run', finished, LOCPATH=str(german), LC_ALL='de_DE.UTF-8')

@pytest.mark.parametrize('home', ['/proc', None], ids=['read-only', 'none'])
def test_without_a_home_folder(pictures, tmp_path, finished, home):
    "Nobody can write to /proc, not even root."
    r = same_in('' if home else NOBODY, pictures, tmp_path/'run', finished,
                HOME=home, SDN_LITE_CACHE=None, XDG_CACHE_HOME=None, MPLCONFIGDIR=None)
    assert 'set SDN_LITE_CACHE to a folder that can be written' in r.stderr

@pytest.mark.parametrize('locale', ['C.UTF-8', 'C'])
def test_path_with_spaces_and_other_letters(pictures, tmp_path, finished, locale):
    odd = tmp_path/'Bilder für alle, 猫 🍎'/"it's \"mine\" $HOME %s"; odd.mkdir(parents=True)
    shutil.copytree(pictures, odd/'meine Bilder')
    same_in('', odd/'meine Bilder', odd/'ein Lauf', finished, LC_ALL=locale)


# ---------------------------------------------------------------- going on elsewhere

MADE = dict(pictures=22, processes=1, workers=0, sdn_lite='0.1.0', torch='2.5.0', device='cpu AVX2', precision='no',
            threads=2)

@pytest.mark.parametrize('name, value', [('threads', 8), ('device', 'NVIDIA A100'), ('torch', '2.6.0'),
                                         ('sdn_lite', '0.2.0'), ('precision', 'bf16'), ('processes', 2)])
def test_what_differs_is_said(whole, name, value):
    said = check_made(MADE, MADE | {name: value}, dict(at=dict(batch=1)), whole[1], 'state.pt')
    assert said.startswith(f'Going on with {name} {value} (was {MADE[name]}):') and 'not bit for bit' in said

def test_nothing_is_said_where_nothing_differs(whole):
    for new in (MADE, MADE | dict(workers=4)):
        assert check_made(MADE, new, dict(at=dict(batch=1)), whole[1], 'state.pt') == ''

@pytest.mark.parametrize('name', ['workers', 'processes'])
def test_stream_goes_on_with_others_at_the_border_of_an_epoch_only(name):
    config = DistillConfig(data='stream:x.tar', epoch_pictures=100)
    with pytest.raises(ValueError, match=rf'state\.pt was written with {MADE[name]} {name}, now there are 4: '
                                         r'bring back what there was, or choose another out'):
        check_made(MADE, MADE | {name: 4}, dict(at=dict(batch=1)), config, 'state.pt')
    assert f'{name} 4' in check_made(MADE, MADE | {name: 4}, dict(at=dict(batch=0)), config, 'state.pt')

def stop_at(at): return lambda run, stage, step, student: os.kill(os.getpid(), signal.SIGINT) if step == at else None

def test_another_number_of_threads_is_said_and_goes_on(tiny, finished, quick_report, capsys):
    distill(tiny(), progress=False, callback=stop_at(8)); threads = torch.get_num_threads(); capsys.readouterr()
    torch.set_num_threads(threads + 1)
    try: run = distill(tiny(), resume=True, progress=False)
    finally: torch.set_num_threads(threads)
    said = capsys.readouterr().out
    assert said.count('\n') == 1 and f'threads {threads + 1} (was {threads})' in said
    assert run.log()['total'] == pytest.approx(finished.log()['total'], rel=1e-3)

def test_checkpoint_says_what_it_was_made_with(finished):
    made = load_checkpoint(finished, finished.config)['made']
    assert (made['torch'] == torch.__version__ and made['threads'] == torch.get_num_threads()
            and made['pictures'] == 22 and set(made) == set(MADE))

def test_other_pictures_are_refused(tiny, pictures, tmp_path):
    mine = shutil.copytree(pictures, tmp_path/'mine')
    run = distill(tiny(data=str(mine)), progress=False, callback=stop_at(8)); before = tree(run.folder)
    rows = (mine/'metadata.csv').read_text(encoding='utf-8').splitlines()
    (mine/'metadata.csv').write_text(
        '\n'.join(r for r in rows if not r.startswith(rows[-1].split(',')[0])) + '\n', encoding='utf-8')
    with pytest.raises(ValueError, match=r'state\.pt was written with 22 pictures, now there are 21: '
                                         r'bring back what there was, or choose another out'):
        distill(run.folder, progress=False)
    assert tree(run.folder) == before
