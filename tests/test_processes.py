"Several processes do what one does: torchrun with gloo, on processors."
import csv, json, os, subprocess, sys
import pytest
from PIL import Image
from conftest import losses, weights
from sdn_lite.stages import Run

# What each process does: train, and write down who it is and which pictures it has seen
PROGRAM = """
import json, os, sys
import sdn_lite.stages as stages
from sdn_lite.stages import DistillConfig, distill
settings = json.loads(sys.argv[1]); seen, plain = [], stages.Pairs.__getitem__
def noting(self, i): seen.append(int(i)); return plain(self, i)
stages.Pairs.__getitem__ = noting
warm, warm_up = [], stages.warm_up
def weighing(student, *args): \
warm_up(student, *args); warm.append(sum(p.double().abs().sum().item() for p in student.parameters()))
stages.warm_up = weighing
run = distill(DistillConfig(**settings), progress=False)
from accelerate import PartialState
state = PartialState()
with open(settings['out'] + f'.{state.process_index}.json', 'w') as f: \
json.dump(dict(world=state.num_processes, seen=seen, warm=warm, finished=run.finished), f)
"""

def train(tmp_path, pictures, world, name, env=None, **changes):
    "Train under torchrun; the run, and what each process wrote down."
    settings = dict(data=str(pictures), out=str(tmp_path/name), size=32, fc_dim=32, epochs=(2, 2), warmup=20,
                    batch=8, lr=1e-4, snapshots=2, save_seconds=0) | changes
    (tmp_path/'program.py').write_text(PROGRAM)
    r = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(world),
                        tmp_path/'program.py', json.dumps(settings)], capture_output=True, text=True, timeout=600,
                       env=os.environ | dict(ACCELERATE_USE_CPU='true', OMP_NUM_THREADS='1') | (env or {}))
    assert r.returncode == 0, r.stderr
    return Run(settings['out']), [json.loads((tmp_path/f'{name}.{k}.json').read_text()) for k in range(world)]

@pytest.fixture(scope='module')
def one_and_two(tmp_path_factory, pictures):
    tmp = tmp_path_factory.mktemp('processes')
    return train(tmp, pictures, 1, 'one'), train(tmp, pictures, 2, 'two')

def test_there_are_two(one_and_two):
    (_, one), (_, two) = one_and_two
    assert [p['world'] for p in one] == [1] and [p['world'] for p in two] == [2, 2] and all(p['finished'] for p in two)

def test_every_process_warms_up_alike(one_and_two):
    (_, one), (_, two) = one_and_two
    assert one[0]['warm'] == two[0]['warm'] == two[1]['warm'] and len(one[0]['warm']) == 1

def test_same_losses_and_weights_as_one_process(one_and_two):
    "22 pictures in batches of 8, 7 and 7: two of three can't be dealt out evenly."
    (one, _), (two, _) = one_and_two
    a, b = losses(one), losses(two)
    assert a['step'] == b['step'] == list(range(1, 13)) and a['stage'] == b['stage']
    # Adam makes large steps of small differences: hence the small rate
    for column in ('total', 'low', 'mid', 'high'):
        assert (b[column][:3] == pytest.approx(a[column][:3], rel=1e-5)
                and b[column] == pytest.approx(a[column], rel=1e-4)), column
    a, b = weights(one), weights(two)
    for k in a: assert (a[k] - b[k]).norm() <= 1e-3*a[k].norm(), k

def test_each_picture_is_seen_once_an_epoch(one_and_two):
    _, (_, two) = one_and_two
    lengths = [[4, 4, 4], [4, 3, 3]]                                     # of one epoch's batches in each process
    mine = [p['seen'] for p in two]
    assert [len(m) for m in mine] == [4*sum(n) for n in lengths]
    for epoch in range(4):
        pictures = [i for m, n in zip(mine, lengths) for i in m[epoch*sum(n):(epoch + 1)*sum(n)]]
        assert sorted(pictures) == list(range(22))

def test_everything_is_written_once(one_and_two):
    (one, _), (two, _) = one_and_two
    names = lambda run: sorted(p.relative_to(run.folder).as_posix() for p in run.folder.rglob('*') if p.is_file())
    assert names(one) == names(two)
    rows = list(csv.reader((two.folder/'log.csv').open()))
    assert len(rows) == 1 + 12 and [r[0] for r in rows[1:]] == [str(s) for s in range(1, 13)]
    for p in (two.folder/'samples').iterdir(): Image.open(p).verify()

def test_accelerates_gradient_accumulation_is_a_larger_batch(tmp_path, pictures):
    """As `accelerate launch --gradient_accumulation_steps 2` sets it:
    two halves of 11 pictures count as one batch of 22."""
    settings = dict(epochs=(3, 0), schedule='constant', lr=1e-3)
    whole, _ = train(tmp_path, pictures, 1, 'whole', batch=22, **settings)
    halves, _ = train(tmp_path, pictures, 1, 'halves', dict(ACCELERATE_GRADIENT_ACCUMULATION_STEPS='2'),
                      batch=11, **settings)
    assert len(losses(whole)['step']) == 3 and len(losses(halves)['step']) == 6
    a, b = weights(whole), weights(halves)
    for k in a: assert (a[k] - b[k]).norm() <= 1e-3*a[k].norm(), k

def test_a_batch_smaller_than_the_processes_is_refused(tmp_path, pictures):
    with pytest.raises(AssertionError, match='batch=1 would leave one of the 2 processes without a picture'):
        train(tmp_path, pictures, 2, 'small', batch=1)
