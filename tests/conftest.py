import csv, os
import matplotlib.figure
import pytest, torch
from torchvision.utils import save_image
from safetensors.torch import load_file
from sdn_lite import stages
from sdn_lite.all import DistillConfig, distill, get_teacher, load_emoji, mirror, get_text_encoder

matplotlib.use('agg')

STEPS = 6   # of each stage in `tiny` runs: 22 training pictures, 3 batches, 2 epochs

def write_csv(folder, rows, header=('file_name', 'text')):
    with open(folder/'metadata.csv', 'w', newline='', encoding='utf-8') as f: csv.writer(f).writerows([header, *rows])
    return folder

def tree(folder):
    "Every file below `folder` with its bytes: equal trees are unchanged folders."
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}

def weights(run): return load_file(run.folder/'model/model.safetensors')

def assert_same_weights(a, b):
    a, b = weights(a), weights(b)
    assert list(a) == list(b)
    assert not [k for k in a if not torch.equal(a[k], b[k])]

def losses(run):
    log = run.log(); log.pop('images_per_second')
    return log

@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
    "Text vectors are kept in a folder of the tests' own."
    os.environ['SDN_LITE_CACHE'] = str(tmp_path_factory.mktemp('cache'))

@pytest.fixture(scope='session')
def pictures(tmp_path_factory):
    "A folder of 24 emoji with a metadata.csv; two of them fall into 'valid'."
    folder, ds = tmp_path_factory.mktemp('pictures'), load_emoji('small', 'train', 32)
    for i in range(24): save_image(ds[i]['image'], folder/f'{ds.ids[i]}.png')
    return write_csv(folder, [(f'{ds.ids[i]}.png', caption) for i in range(24) for caption in ds.captions(i)[:2]])

@pytest.fixture
def tiny(pictures, tmp_path):
    "Make the config of a run of 6 + 6 steps; `snapshots=6` calls the callback at every step."
    def make(**changes):
        settings = dict(data=str(pictures), out=str(tmp_path/'run'), size=32, fc_dim=32,
                        epochs=(2, 2), warmup=3, batch=8, snapshots=STEPS)
        return DistillConfig(**settings | changes)
    return make

@pytest.fixture
def quick_report(monkeypatch):
    "An empty report.png, for tests that train often and don't look at it: drawing it takes longer than the 12 steps."
    monkeypatch.setattr(stages, 'report_figure', lambda *_: matplotlib.figure.Figure((1, 1)))

@pytest.fixture(scope='session')
def finished(pictures, tmp_path_factory):
    "The run that the others are compared with. Nobody may write to it."
    config = DistillConfig(data=str(pictures), out=str(tmp_path_factory.mktemp('finished')/'run'), size=32, fc_dim=32,
                           epochs=(2, 2), warmup=3, batch=8, snapshots=STEPS)
    return distill(config, progress=False)

@pytest.fixture(scope='session')
def teacher(): return get_teacher('vgg19_lite')

@pytest.fixture(scope='session')
def encoder(): return get_text_encoder()

@pytest.fixture(scope='session')
def student(teacher): return mirror(teacher, text_dim=8, fc_dim=16, size=32)
