import http.client, urllib.error
import pytest, torch, torchvision
from safetensors.torch import load_file
from torch import nn
from sdn_lite.data import ASSETS, load_emoji
from sdn_lite.student import Student, mirror
from sdn_lite.teacher import LEVELS, TEACHERS, Teacher, accuracy, blocks_of, get_teacher
from torchvision.models.vgg import cfgs

VGG19 = blocks_of(cfgs['E'])

def picture(size=32, n=2): return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))
def shapes(taps): return [(name, tuple(x.shape)) for name, x in taps.items()]

# ---------------------------------------------------------------- teacher: arguments and files

@pytest.mark.parametrize('arguments, message', [
    (dict(name='vgg20'), r"name='vgg20' is unknown: use one of 'vgg19_lite', 'vgg11', 'vgg11_bn'.*'vgg19_bn'"),
    (dict(pool='min'), r"pool='min' is unknown: use one of 'avg', 'max'"),
])
def test_unknown_name_or_pool_names_the_choices(arguments, message):
    with pytest.raises(ValueError, match=message): get_teacher(**arguments)

@pytest.mark.parametrize('name', ['vgg19_lite', 'vgg11'])
@pytest.mark.parametrize('file', ['no.safetensors', 'no.pth'])
def test_missing_weights_file_is_named(name, file):
    with pytest.raises(FileNotFoundError, match=rf"weights='{file}' is not a file: use None, 'default' or the path"):
        get_teacher(name, file)

@pytest.mark.parametrize('file', ['bad.safetensors', 'bad.pth'])
@pytest.mark.parametrize('content', [b'', b'\x80\x02}q\x00', bytes(range(256))*8, b'PK\x03\x04' + bytes(200)],
                         ids=['no bytes', 'pickle', 'noise', 'zip'])
def test_damaged_weights_file_is_named(tmp_path, file, content):
    (tmp_path/file).write_bytes(content)
    with pytest.raises(ValueError, match=rf'{file} is damaged or no file of weights .*fetch it again'):
        get_teacher('vgg11', tmp_path/file)

def test_weights_file_never_runs_code(tmp_path):
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/'ran'), 'w'))
    torch.save({'features.0.weight': Evil()}, tmp_path/'evil.pth')
    with pytest.raises(ValueError, match=r'evil\.pth is damaged or no file of weights'):
        get_teacher('vgg11', tmp_path/'evil.pth')
    assert not (tmp_path/'ran').exists()

@pytest.mark.parametrize('content', [[1, 2], torch.zeros(3), {'state_dict': {}}, {}],
                         ids=['list', 'tensor', 'wrapped', 'empty'])
@pytest.mark.parametrize('name', ['vgg19_lite', 'vgg11'])
def test_pytorch_file_of_something_else_is_refused(tmp_path, name, content):
    torch.save(content, tmp_path/'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth'): get_teacher(name, tmp_path/'other.pth')

@pytest.mark.parametrize('name, other', [('vgg11', 'vgg11_bn'), ('vgg11_bn', 'vgg11'), ('vgg13', 'vgg11'),
                                         ('vgg19_lite', 'vgg11')])
def test_weights_of_another_teacher_are_refused(tmp_path, name, other):
    layers = torchvision.models.vgg.make_layers(cfgs['A'], batch_norm=other.endswith('bn'))
    torch.save({f'features.{k}': v for k, v in layers.state_dict().items()}, tmp_path/f'{other}.pth')
    with pytest.raises(ValueError, match=rf"{other}\.pth.* does not fit name='{name}' .*"
                                         r"choose the teacher that the file was made for"):
        get_teacher(name, tmp_path/f'{other}.pth')

@pytest.mark.parametrize('error', [
    urllib.error.URLError('no network'), TimeoutError('timed out'), ConnectionResetError('reset'),
    http.client.IncompleteRead(b'half'), RuntimeError('invalid hash value (expected "8a719046", got "00")'),
], ids=lambda e: type(e).__name__)
def test_failed_download_says_what_to_fetch_and_what_needs_no_network(monkeypatch, tmp_path, error):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    def fail(*args, **kwargs): raise error
    monkeypatch.setattr(torch.hub, 'download_url_to_file', fail)
    with pytest.raises(ConnectionError) as e: get_teacher('vgg11')
    for part in ('vgg11', 'https://download.pytorch.org/models/vgg11-8a719046.pth', str(tmp_path/'hub'/'checkpoints'),
                 "get_teacher('vgg19_lite') needs no network"):
        assert part in str(e.value)
    assert '\n' not in str(e.value)

def test_damaged_file_in_the_cache_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    file = tmp_path/'hub/checkpoints/vgg11-8a719046.pth'
    file.parent.mkdir(parents=True); file.write_bytes(b'half a download')
    with pytest.raises(ValueError, match=r'vgg11-8a719046\.pth is damaged'): get_teacher('vgg11')

# ---------------------------------------------------------------- teacher: what it computes

@pytest.mark.parametrize('name, size', [('vgg11', 32), ('vgg11_bn', 32), ('vgg11', 64), ('vgg11_bn', 64)])
def test_torchvision_weights_give_torchvision_features(tmp_path, name, size):
    torch.manual_seed(0)
    # `features` of torchvision's network, without its 500 MB classifier
    theirs = torchvision.models.vgg.make_layers(cfgs['A'], batch_norm=name.endswith('bn'))
    for m in theirs:
        if isinstance(m, nn.Conv2d): nn.init.kaiming_normal_(m.weight); nn.init.normal_(m.bias, std=.1)
        if isinstance(m, nn.BatchNorm2d):
            for p in (m.weight, m.running_var): nn.init.uniform_(p, .5, 2)
            for p in (m.bias, m.running_mean): nn.init.normal_(p)
    torch.save({f'features.{k}': v for k, v in theirs.state_dict().items()} | {'classifier.0.bias': torch.zeros(4096)},
               tmp_path/'theirs.pth')
    taps = get_teacher(name, tmp_path/'theirs.pth', pool='max')(picture(size))
    x, expected = (torchvision.transforms.functional.normalize(picture(size), [.485, .456, .406], [.229, .224, .225]),
                   [picture(size)])
    with torch.no_grad():
        for m in theirs.eval():
            x = m(x) if not isinstance(m, nn.ReLU) else x.relu()
            if isinstance(m, (nn.ReLU, nn.MaxPool2d)): expected.append(x)
    assert len(taps) == len(expected)
    for (tap, mine), his in zip(taps.items(), expected):
        torch.testing.assert_close(mine, his, rtol=1e-4, atol=1e-3, msg=lambda m: f'{tap}: {m}')

def test_classifier_of_torchvision_is_the_network_we_compare_with():
    with torch.device('meta'): net = torchvision.models.vgg11_bn()
    assert ([str(m) for m in net.features]
            == [str(m) for m in torchvision.models.vgg.make_layers(cfgs['A'], batch_norm=True)])

@pytest.mark.parametrize('name', ['vgg19_lite', 'vgg11_bn'])
def test_teacher_is_frozen_but_gradient_reaches_the_picture(name):
    teacher = get_teacher(name, weights=None).train()
    assert (not teacher.training and not any(m.training for m in teacher.modules())
            and not any(p.requires_grad for p in teacher.parameters()))
    x = picture().requires_grad_()
    teacher(x)['pool5'].sum().backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is None for p in teacher.parameters())

def test_train_of_a_model_that_holds_the_teacher_keeps_it_frozen(teacher):
    assert not nn.ModuleDict({'teacher': teacher}).train()['teacher'].training

def test_image_tap_is_the_picture_before_normalisation(teacher):
    assert torch.equal(teacher(picture())['image'], picture())

def test_taps_are_not_overwritten_by_later_layers(teacher):
    taps = teacher(picture())
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(taps['conv1_2'], 2), taps['pool1'])
    assert all(x.min() >= 0 for t, x in taps.items())

@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 1, 32, 32), (1, 3, 33, 32), (1, 3, 32, 16), (1, 3, 0, 32),
                                   (1, 32, 32, 3)])
def test_wrong_picture_shape_is_named(teacher, shape):
    with pytest.raises(ValueError, match=rf'images has the shape \[{", ".join(map(str, shape))}\]: '
                                         r'use \[batch, 3, height, width\] with sides divisible by 32'):
        teacher(torch.zeros(shape))

def test_bundled_teacher_recognises_unseen_emoji():
    state, heads = load_file(ASSETS/'vgg19_lite.safetensors'), []
    for k in range(3):
        w, b = state[f'heads.{k}.weight'].float(), state[f'heads.{k}.bias'].float()
        heads.append(nn.Linear(w.shape[1], w.shape[0])); heads[-1].load_state_dict(dict(weight=w, bias=b))
    assert accuracy(get_teacher(), heads, load_emoji('all', 'unseen'))['subgroup'] > .4

# ---------------------------------------------------------------- student

@pytest.mark.parametrize('name, size', [(name, 32) for name in TEACHERS] + [('vgg19_lite', s) for s in (64, 128, 224)])
def test_student_has_the_teachers_taps(name, size):
    teacher = get_teacher(name, weights=None)
    taps = mirror(teacher, text_dim=8, fc_dim=16, size=size).taps(torch.ones(1, 8))
    assert shapes(taps) == shapes(teacher(picture(size, 1)))
    assert [(t.name, t.channels, size//t.stride) for t in teacher.taps] == [(n, s[1], s[2]) for n, s in shapes(taps)]
    assert [t.level for t in teacher.taps] == sorted((t.level for t in teacher.taps), key=LEVELS.index)

def test_students_image_is_its_image_tap(student):
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(student(z), student.taps(z)['image'])

def test_gradient_reaches_every_weight_of_the_student(teacher):
    student = mirror(teacher, text_dim=8, fc_dim=64, size=32)
    student(torch.randn(4, 8)).abs().sum().backward()
    assert not [n for n, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]

def test_numbers_of_the_paper():
    with torch.device('meta'): student = Student(VGG19, text_dim=1024, fc_dim=4096, size=224)
    count = lambda ps: sum(p.numel() for p in ps)
    assert len(student.plan) + 1 == 22 and len(student.convs) == 16
    assert count(c.weight for c in student.convs.values()) == 20_018_880
    assert count(c.bias for c in student.convs.values()) == 4_995
    assert count(p for m in (student.fc7, student.fc6, student.pool5) for p in m.parameters()) == 123_765_248
    assert count(student.parameters()) == 143_789_123

@pytest.mark.parametrize('shape', [(8,), (1, 9), (1, 8, 1)])
def test_wrong_text_vector_is_named(student, shape):
    with pytest.raises(ValueError, match=rf'z has the shape \[{", ".join(map(str, shape))}\]: use \[batch, 8\]'):
        student(torch.zeros(shape))

@pytest.mark.parametrize('arguments, message', [
    (dict(size=48), r'size=48 is not divisible by 32.*use 64'),
    (dict(size=0), r'size=0 is not divisible by 32.*use 32'),
    (dict(init='he'), r"init='he' is unknown: use one of 'mirror', 'scaled', 'paper'"),
])
def test_wrong_size_or_init_is_named(teacher, arguments, message):
    with pytest.raises(ValueError, match=message): mirror(teacher, 8, **arguments)

def test_paper_init_has_the_papers_deviations(teacher):
    student = mirror(teacher, text_dim=256, init='paper')
    for m in student.modules():
        if isinstance(m, nn.Conv2d) and m.weight.numel() > 10_000:
            assert m.weight.std().item() == pytest.approx(.02, rel=.05)
        if isinstance(m, nn.Linear): assert m.weight.std().item() == pytest.approx(.1, rel=.05)

def test_student_is_built_again_from_its_config(student):
    twin = Student(**student.config); twin.load_state_dict(student.state_dict())
    assert torch.equal(twin(torch.ones(1, 8)), student(torch.ones(1, 8)))


def test_silent_layers_leave_finite_weights():
    "A narrow network can begin with ReLUs that are all silent, in the teacher and in the student."
    teacher = Teacher([[2], [2], [2], [2], [1]])
    with torch.no_grad(): teacher.convs['conv5_1'].weight.zero_(); teacher.convs['conv5_1'].bias.fill_(-1)
    assert not teacher(torch.rand(1, 3, 32, 32))['pool5'].any()
    assert all(p.isfinite().all() and p.any() for n, p in mirror(teacher, 3, 4, 32).named_parameters() if 'weight' in n)
    for seed in range(40):
        torch.manual_seed(seed); student = mirror(Teacher([[2], [2], [2], [2], [1]]), 1, 1, 32)
        assert student(torch.randn(4, 1)).isfinite().all() and all(p.isfinite().all() for p in student.parameters())
