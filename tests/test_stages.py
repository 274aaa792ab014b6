import errno, json, os, resource, signal
from dataclasses import asdict, fields
from pathlib import Path
import pytest, torch
from PIL import Image
from sdn_lite import stages
from sdn_lite.pipeline import TextToImage
from sdn_lite.stages import DistillConfig, Run, distill, load_checkpoint
from conftest import STEPS, assert_same_weights, losses, tree, write_csv

def stop_at(step):
    "A callback that presses Ctrl-C at `step`."
    def callback(run, stage, at, student):
        if at == step: os.kill(os.getpid(), signal.SIGINT)
    return callback

def train(config, **more): return distill(config, progress=False, **more)

def interrupted(config, step):
    run = train(config, callback=stop_at(step))
    assert not run.finished
    return run

# ---------------------------------------------------------------- a finished run

def test_log_has_the_columns_of_the_design_and_a_row_for_each_step(finished):
    lines = (finished.folder/'log.csv').read_text().splitlines()
    assert lines[0] == 'step,stage,total,low,mid,high,images_per_second' and len(lines) == 1 + 2*STEPS
    log = finished.log()
    assert log['step'] == list(range(1, 2*STEPS + 1)) and log['stage'] == [1]*STEPS + [2]*STEPS
    weights = finished.config.levels.values()
    for total, *levels in zip(log['total'], log['low'], log['mid'], log['high']):
        assert total == pytest.approx(sum(w*x for w, x in zip(weights, levels)), rel=1e-4)
    assert min(log['images_per_second']) > 0

def test_run_folder_holds_what_the_design_says(finished):
    assert {p.name for p in finished.folder.iterdir()} == {
        '.lock', 'config.json', 'log.csv', 'checkpoint', 'samples', 'model', 'report.png'}
    assert {p.name for p in (finished.folder/'model').iterdir()} == {'README.md', 'config.json', 'model.safetensors'}
    assert ([p.name for p in sorted((finished.folder/'samples').iterdir())]
            == [f'step_{s:06}.png' for s in range(1, 2*STEPS + 1)])
    for p in (finished.folder/'report.png', *(finished.folder/'samples').iterdir()):
        with Image.open(p) as f: assert f.format == 'PNG' and len(f.convert('RGB').getcolors(1 << 24)) > 1
    assert finished.finished and Run(finished.folder).config == finished.config

def test_stages_of_a_run_are_two_students(finished, encoder):
    students, z = finished.students(), encoder('a cat')
    assert list(students) == ['Stage-I', 'Stage-II']
    assert not torch.equal(students['Stage-I'](z), students['Stage-II'](z))
    model = TextToImage.from_pretrained(finished.folder/'model')
    torch.testing.assert_close(students['Stage-II'](z).clamp(0, 1), model.images(['a cat']))

@pytest.mark.usefixtures('quick_report')
def test_loss_falls(tiny):
    log = train(tiny(epochs=(12, 0), snapshots=1)).log()
    assert sum(log['total'][-3:]) < .8*sum(log['total'][:3])

def test_callback_is_called_at_each_snapshot(tiny):
    seen = []
    train(tiny(epochs=(1, 1), snapshots=1),
          callback=lambda run, stage, step, student: seen.append((stage, step, student(torch.zeros(1, 256)).shape)))
    assert seen == [(1, 3, (1, 3, 32, 32)), (2, 6, (1, 3, 32, 32))]

def test_one_seed_gives_the_same_losses_and_weights(tiny, finished):
    run = train(tiny())
    assert losses(run) == losses(finished)
    assert_same_weights(run, finished)

@pytest.mark.usefixtures('quick_report')
@pytest.mark.parametrize('change', [dict(seed=1), dict(lr=1e-3), dict(scale='raw'), dict(init='paper'),
                                    dict(pool='max'), dict(levels={'low': 2.}), dict(schedule='constant')], ids=str)
def test_setting_changes_the_losses(tiny, finished, change):
    run = train(tiny(epochs=(1, 0), **change))
    assert losses(run)['total'] != losses(finished)['total'][:3]

@pytest.mark.usefixtures('quick_report')
def test_one_picture_a_step_uses_every_picture(tiny):
    assert len(train(tiny(epochs=(1, 0), batch=1, snapshots=1)).log()['step']) == 22

@pytest.mark.usefixtures('quick_report')
@pytest.mark.parametrize('steps', [1, 2, 3, 4, 5, 7])
def test_any_number_of_steps_works(tiny, steps):
    assert train(tiny(epochs=(steps, 0), batch=24, snapshots=1)).log()['step'] == list(range(1, steps + 1))

def test_stage_two_alone_works(tiny): assert train(tiny(epochs=(0, 1))).log()['stage'] == [2]*3

@pytest.mark.usefixtures('quick_report')
def test_worker_processes_change_nothing(tiny, tmp_path):
    alone, helped = (train(tiny(out=str(tmp_path/f'workers{n}'), epochs=(2, 0), workers=n)) for n in (0, 2))
    assert losses(alone) == losses(helped)
    assert_same_weights(alone, helped)

@pytest.mark.usefixtures('quick_report')
def test_precision_may_change_within_a_process(tiny, finished):
    assert train(tiny(epochs=(1, 0), precision='bf16')).finished

@pytest.mark.usefixtures('quick_report')
def test_paths_may_be_path_objects(tiny, pictures, tmp_path):
    assert train(tiny(data=pictures, out=tmp_path/'run', epochs=(1, 0), snapshots=1)).finished

@pytest.mark.parametrize('count', [1, 2])
def test_few_pictures_are_enough(tiny, tmp_path, count):
    (tmp_path/'few').mkdir()
    names = ['04.png', '05.png'][:count]   # both fall into 'train'
    for n in names: Image.new('RGB', (32, 32), 'red').save(tmp_path/'few'/n)
    write_csv(tmp_path/'few', [(n, 'red') for n in names])
    assert train(tiny(data=str(tmp_path/'few'), epochs=(1, 1), snapshots=1)).finished

def test_no_picture_to_train_on_is_said_before_anything_is_written(tiny, tmp_path):
    (tmp_path/'few').mkdir(); Image.new('RGB', (32, 32)).save(tmp_path/'few'/'02.png')   # falls into 'valid'
    write_csv(tmp_path/'few', [('02.png', 'black')])
    with pytest.raises(ValueError, match=r'few.*picture'): train(tiny(data=str(tmp_path/'few')))
    assert not (tmp_path/'run').exists()

# ---------------------------------------------------------------- the warm-up

def logged(run): return run.log()['total']

def test_warm_up_brings_the_first_high_loss_down(tiny, tmp_path):
    cold, warm = (train(tiny(out=str(tmp_path/f'w{w}'), epochs=(1, 0), warmup=w, snapshots=1)).log()['high'][0]
                  for w in (0, 200))
    assert warm < .8*cold

@pytest.mark.parametrize('without', [dict(epochs=(0, 1)), dict(levels={'high': 0.})],
                         ids=['no Stage-I', 'no high level'])
def test_warm_up_belongs_to_stage_one_and_the_high_level(tiny, tmp_path, without):
    one, other = (logged(train(tiny(**dict(out=str(tmp_path/f'w{w}'), epochs=(1, 0), warmup=w, snapshots=1) | without)))
                  for w in (0, 50))
    assert one == other

# ---------------------------------------------------------------- wrong settings

BAD = [
    ('data', 'nowhere', r"data='nowhere' is not a folder: use 'emoji-small', 'emoji'"),
    ('text', 'bert', r"text encoder 'bert' is unknown: use one of 'char-cnn-rnn'"),
    ('teacher', 'vgg20', r"'vgg20' is unknown: use one of 'vgg19_lite'"),
    ('teacher_weights', 'no.pth', r"weights='no\.pth' is not a file"),
    ('pool', 'min', r"pool='min' is unknown: use one of 'avg', 'max'"),
    ('size', 48, r'size=48 is not divisible by 32.*use 64'),
    ('size', '32', r"size='32' is not divisible by 32"),
    ('fc_dim', 0, r'fc_dim=0: use a whole number of at least 1'),
    ('fc_dim', 1.5, r'fc_dim=1\.5: use a whole number of at least 1'),
    ('fc_dim', '32', r"fc_dim='32': use a whole number of at least 1"),
    ('warmup', -1, r'warmup=-1: use a whole number of at least 0'), ('warmup', 1.5, r'warmup=1\.5: use a whole number'),
    ('init', 'he', r"init='he' is unknown: use one of 'mirror', 'scaled', 'paper'"),
    ('epochs', (0, 0), r'epochs=\(0, 0\): give'), ('epochs', (1,), r'epochs=\(1,\): give'),
    ('epochs', (-1, 2), r'epochs=\(-1, 2\): give'), ('epochs', 3, r'epochs=3: give'),
    ('epochs', (.5, 1), r'epochs=\(0\.5, 1\): give'), ('epochs', ('a', 'b'), r"epochs=\('a', 'b'\): give"),
    ('batch', 0, r'batch=0: use a whole number of at least 1'), ('batch', -8, r'batch=-8: use a whole number'),
    ('batch', 2.5, r'batch=2\.5: use a whole number'), ('batch', None, r'batch=None: use a whole number'),
    ('lr', 0, r'lr=0: use a number greater than 0'), ('lr', -1e-3, r'lr=-0\.001: use a number'),
    ('lr', float('nan'), r'lr=nan: use a number'), ('lr', float('inf'), r'lr=inf: use a number'),
    ('lr', 'fast', r"lr='fast': use a number"),
    ('schedule', 'cosine', r"schedule='cosine' is unknown: use one of 'onecycle', 'constant'"),
    ('scale', 'log', r"scale='log' is unknown: use one of 'calibrated', 'raw'"),
    ('distance', 'l3', r"distance='l3' is unknown: use one of 'l1', 'l2'"),
    ('levels', {'middle': 1.}, r"level='middle' is unknown: use one of 'low', 'mid', 'high'"),
    ('levels', {'low': 'x'}, r"level.*'x'"), ('levels', 1., r'levels=1\.0'),
    ('seed', 'x', r"seed='x': use a whole number of at least 0"), ('seed', 1.5, r'seed=1\.5: use a whole number'),
    ('speed', 'warp', r"speed='warp' is unknown: use one of 'auto', 'plain', 'compiled'"),
    ('precision', 'fp8', r"precision='fp8' is unknown: use one of 'auto', 'no', 'bf16', 'fp16'"),
    ('workers', -1, r'workers=-1: use a whole number'), ('workers', 'x', r"workers='x': use a whole number"),
    ('snapshots', -1, r'snapshots=-1: use a whole number'), ('snapshots', 1.5, r'snapshots=1\.5: use a whole number'),
    ('save_seconds', 'soon', r"save_seconds='soon': use a number of seconds"),
    ('plain', 1.5, r'plain=1\.5: use a share from 0 to 1'), ('plain', -.1, r'plain=-0\.1: use a share'),
    ('plain', 'half', r"plain='half': use a share"),
    ('recall', -1, r'recall=-1: use a temperature such as 0\.03, or 0'),
    ('recall', 'x', r"recall='x': use a temperature"), ('recall', .03, r"recall=0\.03 works with the text encoders"),
    ('epoch_pictures', -1, r'epoch_pictures=-1: use a whole number'),
    ('data', 'stream:x.tar', r'has no end: say with epoch_pictures'),
]

@pytest.mark.usefixtures('quick_report')
@pytest.mark.parametrize('field, value, message', BAD, ids=[f'{f}={v}' for f, v, _ in BAD])
def test_wrong_setting_is_named_and_leaves_no_folder(tiny, field, value, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message): train(tiny(**{'epochs': (1, 0), field: value}))
    assert not Path(tiny().out).exists()

def test_every_setting_has_a_wrong_value_above():
    assert {b[0] for b in BAD} == {f.name for f in fields(DistillConfig)} - {'out'}

@pytest.mark.skipif(torch.cuda.is_available(), reason='a GPU computes fp16')
def test_fp16_without_a_gpu_is_refused(tiny):
    with pytest.raises(ValueError, match='fp16'): train(tiny(precision='fp16'))
    assert not Path(tiny().out).exists()

# ---------------------------------------------------------------- interruption

@pytest.mark.usefixtures('quick_report')
@pytest.mark.parametrize('step', [1, STEPS//2, STEPS - 1, STEPS, STEPS + 2, 2*STEPS - 1, 2*STEPS])
def test_interrupted_run_resumes_to_the_same_weights(tiny, finished, capsys, step):
    run = interrupted(tiny(), step)
    said = capsys.readouterr().out.splitlines()
    assert (len(said) == 1 and f'Stage-{"I" if step <= STEPS else "II"} at step {step}' in said[0]
            and f'sdn_train --resume {run.folder}' in said[0])
    assert (run.folder/'checkpoint/state.pt').is_file() and run.log()['step'] == list(range(1, step + 1))
    again = train(tiny(), resume=True)
    assert again.finished and losses(again) == losses(finished)
    assert_same_weights(again, finished)
    assert ((again.folder/'checkpoint/stage1.safetensors').read_bytes()
            == (finished.folder/'checkpoint/stage1.safetensors').read_bytes())

@pytest.mark.usefixtures('quick_report')
def test_run_interrupted_twice_resumes_from_its_folder_alone(tiny, finished):
    run = interrupted(tiny(), 2)
    assert not distill(str(run.folder), progress=False, callback=stop_at(9)).finished
    run = distill(run.folder, progress=False)
    assert run.finished and losses(run) == losses(finished)
    assert_same_weights(run, finished)

@pytest.mark.usefixtures('quick_report')
def test_killed_run_resumes_from_its_last_checkpoint(tiny, finished):
    class Killed(BaseException): pass
    def kill(run, stage, step, student):
        if step == 5: raise Killed
    with pytest.raises(Killed): train(tiny(save_seconds=0), callback=kill)
    run = train(tiny(), resume=True)
    assert losses(run) == losses(finished)
    assert_same_weights(run, finished)

@pytest.mark.usefixtures('quick_report')
def test_run_killed_before_its_first_checkpoint_starts_again(tiny, finished):
    class Killed(BaseException): pass
    def kill(*_): raise Killed
    with pytest.raises(Killed): train(tiny(), callback=kill)
    assert_same_weights(train(tiny(), resume=True), finished)

@pytest.mark.usefixtures('quick_report')
def test_moved_run_resumes(tiny, finished, tmp_path):
    interrupted(tiny(), 8).folder.rename(tmp_path/'moved')
    run = distill(tmp_path/'moved', progress=False)
    assert run.folder == tmp_path/'moved' and not (tmp_path/'run').exists()
    assert_same_weights(run, finished)

def test_ctrl_c_works_as_before_after_a_run(tiny):
    before = signal.getsignal(signal.SIGINT)
    interrupted(tiny(), 1)
    assert signal.getsignal(signal.SIGINT) is before

@pytest.mark.usefixtures('quick_report')
def test_second_ctrl_c_interrupts_at_once_and_the_run_still_resumes(tiny, finished):
    def twice(run, stage, step, student):
        if step == 5:
            for _ in range(2): os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt): train(tiny(save_seconds=0), callback=twice)
    assert_same_weights(train(tiny(), resume=True), finished)

# ---------------------------------------------------------------- an existing folder

def test_existing_run_is_not_overwritten(tiny):
    run = interrupted(tiny(), 2); before = tree(run.folder)
    with pytest.raises(ValueError, match=rf"out='{run.folder}' holds a run already: resume it with resume=True "
                                         rf"\(sdn_train --resume {run.folder}\), or choose another folder"):
        train(tiny())
    assert tree(run.folder) == before

def test_finished_run_is_neither_overwritten_nor_trained_again(finished):
    before = tree(finished.folder)
    with pytest.raises(ValueError, match='holds a run already'): train(finished.config)
    assert train(finished.config, resume=True).finished
    assert tree(finished.folder) == before

@pytest.mark.parametrize('resume', [False, True])
def test_folder_with_other_things_is_refused(tiny, tmp_path, resume):
    (tmp_path/'run').mkdir(); (tmp_path/'run/thesis.txt').write_text('mine')
    with pytest.raises(ValueError, match=r"out='.*run' is a folder with other things in it: choose a new one"):
        train(tiny(), resume=resume)
    assert tree(tmp_path/'run') == {'thesis.txt': b'mine'}

@pytest.mark.usefixtures('quick_report')
def test_empty_folder_is_used(tiny, tmp_path):
    (tmp_path/'run').mkdir()
    assert train(tiny(epochs=(1, 0), snapshots=1)).finished

def test_folder_below_a_file_is_named(tiny, tmp_path):
    (tmp_path/'file').write_text('mine')
    with pytest.raises(OSError, match=r'file/run could not be written.*choose another folder'):
        train(tiny(out=str(tmp_path/'file/run')))
    assert (tmp_path/'file').read_text() == 'mine'

def test_resume_of_no_run_says_how_to_start_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere is no run folder: it has no config\.json; start one with'):
        distill(tmp_path/'nowhere')

CHANGES = dict(teacher='vgg11', teacher_weights=None, warmup=5, distance='l2', size=64, lr=5e-3, fc_dim=16, plain=.2,
               seed=1, epochs=(2, 3), batch=4, scale='raw', levels={'low': 2.}, pool='max', init='paper',
               schedule='constant')

@pytest.fixture(scope='module')
def stopped(pictures, tmp_path_factory):
    config = DistillConfig(data=str(pictures), out=str(tmp_path_factory.mktemp('stopped')/'run'), size=32, fc_dim=32,
                           epochs=(2, 2), warmup=3, batch=8, snapshots=STEPS)
    return interrupted(config, 8)

@pytest.mark.parametrize('name', CHANGES)
def test_resume_with_another_setting_names_it(stopped, name):
    before, changed = tree(stopped.folder), dict(asdict(stopped.config), **{name: CHANGES[name]})
    if name == 'teacher': changed['teacher_weights'] = None   # needs no network; `teacher` comes first and is named
    with pytest.raises(ValueError, match=rf'config\.json was written with {name}=.*, not {name}=.*'
                                         r'resume with the same settings, or choose another out'):
        train(DistillConfig(**changed), resume=True)
    assert tree(stopped.folder) == before

# ---------------------------------------------------------------- speed

@pytest.mark.usefixtures('quick_report')
def test_a_run_goes_on_under_another_speed(tiny, finished):
    interrupted(tiny(), 8)
    run = train(tiny(speed='plain', precision='auto'), resume=True)
    assert losses(run)['total'] == pytest.approx(losses(finished)['total'], rel=.02)

def test_compiled_needs_a_gpu_and_says_so_before_anything_is_written(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ValueError, match=r"speed='compiled' needs a GPU: use 'auto' or 'plain'"):
        train(tiny(speed='compiled'))
    assert not (tmp_path/'run').exists()

@pytest.mark.usefixtures('quick_report')
def test_the_compiled_step_fits_the_loop(tiny, finished, monkeypatch):
    "Without a compiler: its parts are passed on as they are. What a compiler makes of them was never tried on a GPU."
    step, used = stages.compiled_step, []
    monkeypatch.setattr(stages, 'pick_precision', lambda *a: 'no')
    monkeypatch.setattr(stages, 'compiled_step',
                        lambda *a, graphs: used.append(graphs) or step(*a, graphs=False, backend='eager'))
    run = train(tiny(speed='compiled'))
    assert used == [True] and losses(run)['total'] == pytest.approx(losses(finished)['total'], rel=1e-3)

# ---------------------------------------------------------------- damage

@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b[:len(b)//2], lambda b: b[:1000],
                                    lambda b: b'no checkpoint', lambda b: b[:-20]],
                         ids=['no bytes', 'half', 'start', 'text', 'without its end'])
def test_damaged_checkpoint_is_named(tiny, damage):
    run = interrupted(tiny(), 1)
    file = run.folder/'checkpoint/state.pt'; file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r'checkpoint/state\.pt is damaged .*remove it to start this run again'):
        train(tiny(), resume=True)

@pytest.mark.parametrize('content', [{}, [1], {'config': '{}'}], ids=str)
def test_checkpoint_of_something_else_is_named(tiny, content):
    run = interrupted(tiny(), 1)
    torch.save(content, run.folder/'checkpoint/state.pt')
    with pytest.raises(ValueError, match=r'checkpoint/state\.pt is damaged .*remove it'): train(tiny(), resume=True)

@pytest.mark.usefixtures('quick_report')
def test_removed_checkpoint_starts_the_run_again(tiny, finished):
    for file in (interrupted(tiny(), 8).folder/'checkpoint').glob('state*.pt'): file.unlink()
    run = train(tiny(), resume=True)
    assert losses(run) == losses(finished)
    assert_same_weights(run, finished)

@pytest.mark.parametrize('content', ['', '{"data": ', '[]', '{"size": 33}', '{"epochs": 3}'])
def test_damaged_config_of_a_run_is_named(tmp_path, content):
    (tmp_path/'config.json').write_text(content)
    with pytest.raises(ValueError, match=r'config\.json'): Run(tmp_path)

@pytest.mark.usefixtures('quick_report')
def test_log_without_its_last_newline_is_mended(tiny, finished):
    run = interrupted(tiny(), 8)
    with open(run.folder/'log.csv', 'a') as f: f.write('9,2,1.2')   # as a power cut leaves it
    assert losses(train(tiny(), resume=True)) == losses(finished)

# ---------------------------------------------------------------- a loss that is not a number

def test_too_high_a_rate_stops_with_stage_step_and_level(tiny):
    with pytest.raises(FloatingPointError, match=r'Stage-I, step \d+: the loss of level (low|mid|high) is (nan|inf); '
                                                 r'try a lower lr than 1e\+30') as e:
        train(tiny(lr=1e30))
    assert not (Path(tiny().out)/'checkpoint/state.pt').exists() and 'checkpoint is good' not in str(e.value)
    assert all(map(torch.isfinite, map(torch.tensor, Run(tiny().out).log()['total'])))

@pytest.mark.usefixtures('quick_report')
def test_nan_in_stage_two_names_its_level_and_keeps_the_checkpoint(tiny, finished, monkeypatch):
    plain, calls = stages.drawn_taps, []
    def broken(stage, *args):
        taps = dict(plain(stage, *args)); calls.append(stage)
        return taps | {'conv3_1': taps['conv3_1']*float('nan')} if calls.count(2) == 5 else taps
    with monkeypatch.context() as m:
        m.setattr(stages, 'drawn_taps', broken)
        with pytest.raises(FloatingPointError,
                           match=rf'Stage-II, step {STEPS + 5}: the loss of level mid is nan; '
                                 r'try a lower lr than 0\.001.*The last checkpoint is good: .*checkpoint'):
            train(tiny(save_seconds=0))
    run = Run(tiny().out)
    assert (run.log()['step'] == list(range(1, STEPS + 5))
            and load_checkpoint(run, run.config)['at']['step'] == STEPS + 3)
    assert_same_weights(train(tiny(), resume=True), finished)

# ---------------------------------------------------------------- a full disk

def small_files(limit):
    "Files can't grow beyond `limit` bytes: what a full disk does, without filling one. Python ignores SIGXFSZ."
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, was[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, was)

@pytest.mark.usefixtures('quick_report')
@pytest.mark.parametrize('step', [4, STEPS + 4], ids=['Stage-I', 'Stage-II'])
def test_full_disk_keeps_the_previous_checkpoint(tiny, finished, step):
    undo, kept = [], {}
    def fill(run, stage, at, student):
        if at == step: kept.update(tree(run.folder/'checkpoint')); undo.append(small_files(1 << 20))
    try:
        with pytest.raises(OSError, match=r'checkpoint/s\w+\.\w+ could not be written .*'
                                          r'free some space or choose another folder') as e:
            train(tiny(save_seconds=0), callback=fill)
    finally:
        for u in undo: u()
    assert '\n' not in str(e.value)
    folder = Path(tiny().out)
    assert 'state.pt' in kept and tree(folder/'checkpoint') == kept and not list(folder.rglob('*.part'))
    assert_same_weights(train(tiny(), resume=True), finished)

@pytest.mark.usefixtures('quick_report')
@pytest.mark.parametrize('target', ['log.csv', 'samples/step_000004.png', 'model/model.safetensors', 'report.png'])
def test_no_space_for_any_file_is_one_line_and_resumable(tiny, finished, monkeypatch, target):
    def full(*args, **kwargs): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as m:
        if target == 'log.csv':
            real = open
            m.setattr(stages, 'open',
                      lambda file, mode='r', *a, **k:
                          full() if str(file).endswith('log.csv') and mode == 'a' else real(file, mode, *a, **k),
                      raising=False)
        else:
            real = os.replace
            m.setattr(stages.os, 'replace', lambda a, b: full() if str(b).endswith(target) else real(a, b))
        with pytest.raises(OSError, match=rf'{target.split("/")[-1]} could not be written '
                                          r'\(No space left on device\); free some space') as e:
            train(tiny(save_seconds=0))
    assert e.value.errno == errno.ENOSPC
    assert not list(Path(tiny().out).rglob('*.part'))
    run = train(tiny(), resume=True)
    assert run.finished and (run.folder/'report.png').is_file() and losses(run) == losses(finished)
    assert_same_weights(run, finished)

def test_config_of_a_run_is_plain_json(finished):
    assert json.loads((finished.folder/'config.json').read_text())['epochs'] == [2, 2]

def test_watch_is_told_every_ten_steps_and_may_stop(tiny, quick_report):
    news = []
    def watch(run, n): news.append(n); return len(news) == 3
    run = train(tiny(epochs=(5, 10)), watch=watch)                  # 15 + 30 steps
    assert [(n['stage'], n['step'], n['steps']) for n in news] == [
        (1, 10, [15, 30]), (2, 5, [15, 30]), (2, 15, [15, 30])]
    assert (set(news[0]) == {'stage', 'step', 'steps', 'total', 'low', 'mid', 'high', 'images_per_second'}
            and not run.finished and run.log()['step'][-1] == 30)
    assert train(tiny(epochs=(5, 10)), resume=True).finished
