"""The paper's size and steps, against a restatement that shares no code with the library.

`restated` is written from the paper's table alone: functional calls, one list of channels,
the student spelled out layer by layer.
"""
import pytest, torch, torch.nn.functional as F
from sdn_lite.all import DistillConfig, LevelLoss, drawn_taps, get_teacher, mirror
from sdn_lite.stages import optimiser
from test_cli import run as command

BLOCKS = ((64, 64), (128, 128), (256,)*4, (512,)*4, (512,)*4)      # VGG19
MEAN, STD = torch.tensor([.485, .456, .406]).view(3, 1, 1), torch.tensor([.229, .224, .225]).view(3, 1, 1)


def restated(stage, look, s, images, z, size):
    "The loss of one step: `look`, the teacher's 16 (weight, bias) in order; `s`, the student's parameters by name."
    def teacher(x):
        taps, x, k = {'image': x}, (x - MEAN)/STD, 0
        for b, widths in enumerate(BLOCKS, 1):
            for c in range(1, len(widths) + 1):
                x = taps[f'conv{b}_{c}'] = F.conv2d(x, *look[k], padding=1).relu(); k += 1
            x = taps[f'pool{b}'] = F.avg_pool2d(x, 2)
        return taps
    def student():
        linear = lambda x, n: F.linear(x, s[f'{n}.weight'], s[f'{n}.bias']).relu()
        conv = lambda x, n: F.conv2d(x, s[f'convs.{n}.weight'], s[f'convs.{n}.bias'], padding=1)
        twice = lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        t = {'pool5': linear(linear(linear(z, 'fc7'), 'fc6'), 'pool5').view(-1, 512, size//32, size//32)}
        t['conv5_4'] = twice(t['pool5'])
        t['conv5_3'] = conv(t['conv5_4'], 'conv5_3').relu(); t['conv5_2'] = conv(t['conv5_3'], 'conv5_2').relu()
        t['conv5_1'] = conv(t['conv5_2'], 'conv5_1').relu()
        t['pool4'] = conv(t['conv5_1'], 'pool4').relu(); t['conv4_4'] = twice(t['pool4'])
        t['conv4_3'] = conv(t['conv4_4'], 'conv4_3').relu(); t['conv4_2'] = conv(t['conv4_3'], 'conv4_2').relu()
        t['conv4_1'] = conv(t['conv4_2'], 'conv4_1').relu()
        t['pool3'] = conv(t['conv4_1'], 'pool3').relu(); t['conv3_4'] = twice(t['pool3'])
        t['conv3_3'] = conv(t['conv3_4'], 'conv3_3').relu(); t['conv3_2'] = conv(t['conv3_3'], 'conv3_2').relu()
        t['conv3_1'] = conv(t['conv3_2'], 'conv3_1').relu()
        t['pool2'] = conv(t['conv3_1'], 'pool2').relu(); t['conv2_2'] = twice(t['pool2'])
        t['conv2_1'] = conv(t['conv2_2'], 'conv2_1').relu()
        t['pool1'] = conv(t['conv2_1'], 'pool1').relu(); t['conv1_2'] = twice(t['pool1'])
        t['conv1_1'] = conv(t['conv1_2'], 'conv1_1').relu()
        t['image'] = conv(t['conv1_1'], 'image')
        return t
    real, own = teacher(images), student()
    drawn = own if stage == 1 else teacher(own['image'])
    assert len(real) == 22 and set(real) == set(drawn)
    return sum((drawn[t] - real[t]).abs().mean() for t in real)


@pytest.mark.parametrize('stage', [1, 2])
def test_losses_and_gradients_agree_with_the_restatement(stage):
    """Random VGG19, 64 px, the preset's other settings; the fc layers are narrower, to fit in memory.
    Float64, so that only a difference in the arithmetic counts."""
    config = DistillConfig.paper('cub', size=64, fc_dim=128)
    torch.manual_seed(0)
    teacher = get_teacher(config.teacher, weights=None, pool=config.pool)
    student, loss = (mirror(teacher, 1024, config.fc_dim, config.size, config.init),
                     LevelLoss(teacher, config.levels, config.scale))
    images, z = torch.rand(2, 3, 64, 64), torch.randn(2, 1024)
    for m in (teacher, student, loss): m.double()
    # float32's 0.485 is not float64's, on both sides
    teacher.std.copy_(STD.double()); teacher.mean.copy_(MEAN.double())
    images, z = images.double(), z.double()
    with torch.no_grad(): real = teacher(images)
    report = loss(real, drawn_taps(stage, teacher, student, z)); report.total.backward()

    copies = {n: p.detach().clone().requires_grad_() for n, p in student.named_parameters()}
    look = [(m.weight.detach(), m.bias.detach()) for m in teacher.convs.values()]
    total = restated(stage, look, copies, images, z, 64); total.backward()
    assert report.total.item() == pytest.approx(total.item(), rel=1e-5)
    assert len(copies) == 2*(16 + 3)
    for name, p in student.named_parameters():
        want = copies[name].grad
        assert want.norm() > 0, name
        assert (p.grad - want).norm() <= 1e-5*want.norm(), name


def test_the_preset_is_the_papers():
    for name, folder in (('cub', 'birds'), ('flowers', 'flowers')):
        c = DistillConfig.paper(name)
        assert ((c.teacher, c.pool, c.teacher_weights, c.size, c.fc_dim, c.text, c.data)
                == ('vgg19', 'avg', 'default', 224, 4096, 'precomputed', f'stackgan:{folder}'))
        assert ((c.init, c.warmup, c.recall, c.scale, c.distance, c.levels, c.lr, c.schedule, c.batch, c.epochs)
                == ('paper', 0, 0, 'raw', 'l1', dict(low=1, mid=1, high=1), 1e-4, 'constant', 12, (100, 80)))
    assert DistillConfig.paper('cub', data='stackgan:elsewhere', batch=24).batch == 24
    with pytest.raises(ValueError, match="name='dogs' is unknown: use one of 'cub', 'flowers'"):
        DistillConfig.paper('dogs')


def test_the_papers_student_and_optimiser():
    c = DistillConfig.paper('cub')
    with torch.device('meta'):
        teacher = get_teacher(c.teacher, weights=None); student = mirror(teacher, 1024, c.fc_dim, c.size, c.init)
    assert sum(p.numel() for p in student.parameters()) == 143_789_123
    convs = [p for n, p in student.named_parameters() if n.startswith('convs')]
    assert (sum(p.numel() for p in convs if p.ndim == 4) == 20_018_880
            == sum(m.weight.numel() for m in teacher.convs.values())
            and sum(p.numel() for p in convs if p.ndim == 1) == 4_995)
    assert sum(p.numel() for n, p in student.named_parameters() if not n.startswith('convs')) == 123_765_248
    assert len(teacher.taps) == 22 and len(teacher.convs) == 16
    opt, sched = optimiser(c, torch.nn.Linear(2, 2), 10, torch.device('cpu'))
    for _ in range(10): opt.step(); sched.step()
    assert (type(opt) is torch.optim.Adam and opt.param_groups[0]['lr'] == 1e-4
            and opt.param_groups[0]['betas'] == (.9, .999) and opt.param_groups[0]['weight_decay'] == 0)


def test_the_papers_first_weights():
    torch.manual_seed(0); s = mirror(get_teacher(weights=None), 1024, 256, 64, DistillConfig.paper('cub').init)
    for n, p in s.named_parameters():
        if p.ndim == 1: assert not p.any(), n
        elif p.numel() > 10_000:
            assert (p.std().item() == pytest.approx(.02 if n.startswith('convs') else .1, rel=.05)
                    and abs(p.mean().item()) < .002), n


def test_the_preset_on_the_command_line(tmp_path):
    r = command(['sdn_train', '--paper', 'cub'], tmp_path)
    assert r.returncode == 2 and 'birds' in r.stderr and len(r.stderr.strip().splitlines()) == 1, r.stderr
    r = command(['sdn_train', '--paper', 'dogs'], tmp_path)
    assert r.returncode == 2 and 'cub' in r.stderr
    r = command(['sdn_train', '--paper', 'cub', '--resume', 'run'], tmp_path)
    assert r.returncode == 2 and 'leave --paper out' in r.stderr
