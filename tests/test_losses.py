import pytest, torch
from sdn_lite.losses import LevelLoss, MeanAbsolute
from sdn_lite.speed import MemoryTrace
from sdn_lite.student import mirror
from sdn_lite.teacher import LEVELS, get_teacher

def pictures(seed): return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))

@pytest.fixture(scope='module')
def real(teacher): return teacher(pictures(0))
@pytest.fixture(scope='module')
def drawn(teacher): return teacher(pictures(1))

def by_hand(teacher, real, drawn, magnitude=lambda tap: 1., power=1):
    "Each tap's mean absolute (or with power 2, squared) difference and the sums of the levels, number by number."
    taps = {t.name: sum(abs(a - b)**power
                        for a, b in zip(real[t.name].flatten().tolist(), drawn[t.name].flatten().tolist())
                       )/real[t.name].numel()/magnitude(t.name)**power
            for t in teacher.taps}
    return taps, {l: sum(v for t, v in taps.items() if next(u.level for u in teacher.taps if u.name == t) == l)
                  for l in LEVELS}

def assert_report(report, taps, levels, weights=(1, 1, 1)):
    assert list(report.taps) == list(taps) and list(report.levels) == list(LEVELS)
    for t, v in taps.items(): assert report.taps[t].item() == pytest.approx(v, rel=1e-4), t
    for l, v in levels.items(): assert report.levels[l].item() == pytest.approx(v, rel=1e-4), l
    assert report.total.item() == pytest.approx(sum(w*v for w, v in zip(weights, levels.values())), rel=1e-4)

def test_raw_is_the_plain_sum(teacher, real, drawn):
    assert_report(LevelLoss(teacher, scale='raw')(real, drawn), *by_hand(teacher, real, drawn))

def test_calibrated_divides_by_the_teachers_magnitude(teacher, real, drawn):
    mean = lambda t: sum(abs(x) for x in real[t].flatten().tolist())/real[t].numel()
    assert_report(LevelLoss(teacher)(real, drawn), *by_hand(teacher, real, drawn, mean))

def test_l2_squares_the_difference_and_the_scale(teacher, real, drawn):
    mean = lambda t: sum(abs(x) for x in real[t].flatten().tolist())/real[t].numel()
    assert_report(LevelLoss(teacher, scale='raw', distance='l2')(real, drawn), *by_hand(teacher, real, drawn, power=2))
    assert_report(LevelLoss(teacher, distance='l2')(real, drawn), *by_hand(teacher, real, drawn, mean, 2))

def test_calibrate_averages_its_batches_and_is_not_moved_later(teacher, real, drawn):
    more = teacher(pictures(2))
    mean = lambda t: sum(b[t].abs().mean().item() for b in (real, more))/2
    loss = LevelLoss(teacher).calibrate([real, more])
    loss(more, drawn)
    assert_report(loss(real, drawn), *by_hand(teacher, real, drawn, mean))

def test_calibrate_takes_taps_that_walk_by_and_keeps_none(teacher):
    held, losses = [], []
    for look in (teacher, teacher.walk):
        loss = LevelLoss(teacher)
        with MemoryTrace() as m: loss.calibrate(look(pictures(k)) for k in range(4))
        held.append(m.most); losses.append(loss)
    assert torch.equal(losses[0].magnitudes, losses[1].magnitudes) and held[1] < .7*held[0], held

def test_raw_stays_raw_after_calibrate(teacher, real, drawn):
    assert_report(LevelLoss(teacher, scale='raw').calibrate([real])(real, drawn), *by_hand(teacher, real, drawn))

@pytest.mark.parametrize('scale', ['raw', 'calibrated'])
@pytest.mark.parametrize('distance', ['l1', 'l2'])
def test_equal_taps_have_no_loss(teacher, real, scale, distance):
    report = LevelLoss(teacher, scale=scale, distance=distance)(real, real)
    assert report.total == 0 and all(v == 0 for v in (*report.taps.values(), *report.levels.values()))

@pytest.mark.parametrize('weights, expected', [
    ({'low': 2., 'mid': 0., 'high': .5}, (2, 0, .5)), ({'mid': 3.}, (1, 3, 1)), ({}, (1, 1, 1)), (None, (1, 1, 1)),
])
def test_level_weights_multiply_the_levels(teacher, real, drawn, weights, expected):
    assert_report(LevelLoss(teacher, weights, 'raw')(real, drawn), *by_hand(teacher, real, drawn), expected)

def test_gradient_reaches_the_student_and_stops_at_the_scale(teacher, real, drawn):
    mine = {t: x.clone().requires_grad_() for t, x in drawn.items()}
    loss = LevelLoss(teacher); loss(real, mine).total.backward()
    assert all(x.grad.abs().sum() > 0 for x in mine.values()) and not loss.magnitudes.requires_grad

@pytest.mark.parametrize('scale', ['raw', 'calibrated'])
def test_taps_that_walk_by_give_the_same_loss_and_gradients(teacher, scale):
    x = [pictures(1).requires_grad_() for _ in range(2)]
    reports = (LevelLoss(teacher, scale=scale)(teacher(pictures(0)), teacher(x[0])),
               LevelLoss(teacher, scale=scale)(torch.no_grad()(teacher.walk)(pictures(0)), teacher.walk(x[1])))
    for r in reports: r.total.backward()
    assert (torch.equal(reports[0].total, reports[1].total)
            and all(torch.equal(v, reports[1].taps[t]) for t, v in reports[0].taps.items()))
    assert x[0].grad.any() and torch.equal(x[0].grad, x[1].grad)

@pytest.mark.parametrize('side', ['teacher', 'student'])
def test_walking_taps_that_miss_one_are_named(teacher, real, drawn, side):
    less = ((t, x) for t, x in real.items() if t != 'conv3_2')
    with pytest.raises(ValueError, match=rf"tap 'conv3_2' is missing in the {side}'s taps"):
        LevelLoss(teacher, scale='raw')(*((less, drawn) if side == 'teacher' else (real, less)))

def test_the_gradient_is_the_sign_over_the_count():
    a = torch.tensor([[1., 2., 5.], [-1., 0., 0.]], requires_grad=True); b = torch.tensor([[1., 3., 2.], [-2., 0., 4.]])
    m = MeanAbsolute.apply(a, b); m.backward()
    assert m.item() == pytest.approx(9/6) and torch.equal(a.grad, torch.tensor([[0., -1., 1.], [1., 0., -1.]])/6)

def test_a_step_holds_at_most_six_tenths_of_what_the_plain_sum_holds(teacher):
    "Nothing is timed: the memory is counted, operation by operation."
    student, loss, z, x = (mirror(teacher, 16, 32, 64), LevelLoss(teacher, scale='raw'),
                           torch.randn(8, 16), torch.rand(8, 3, 64, 64))
    def plainly():
        with torch.no_grad(): real = teacher(x)
        own = teacher(student(z)); return sum((own[t] - real[t]).abs().mean() for t in real)
    held, grads = [], []
    for way in (plainly, lambda: loss(torch.no_grad()(teacher.walk)(x), teacher.walk(student(z))).total):
        with MemoryTrace() as m: g = torch.autograd.grad(way(), list(student.parameters()))
        held.append(m.most); grads.append(g)
    assert .3*held[0] < held[1] < .6*held[0], held
    for a, b in zip(*grads): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)

def test_memory_trace_counts_what_is_held():
    old = torch.ones(100)
    with MemoryTrace() as m:
        a = old + 1; v = a.view(10, 10); a.mul_(2); old.add_(1); del a
        b = v.sum(); del v
        c = torch.zeros(5, dtype=torch.int8)
    assert m.trace == [0, 400, 400, 400, 400, 404, 9] and m.most == 404

def test_scale_survives_save_and_load(teacher, real, drawn):
    loss, twin = LevelLoss(teacher).calibrate([real]), LevelLoss(teacher)
    twin.load_state_dict(loss.state_dict())
    more = teacher(pictures(2))
    assert torch.equal(twin(more, drawn).total, loss(more, drawn).total)

@pytest.mark.parametrize('arguments, message', [
    (dict(weights={'middle': 1.}), r"level='middle' is unknown: use one of 'low', 'mid', 'high'"),
    (dict(scale='log'), r"scale='log' is unknown: use one of 'calibrated', 'raw'"),
    (dict(distance='l3'), r"distance='l3' is unknown: use one of 'l1', 'l2'"),
])
def test_unknown_level_or_scale_names_the_choices(teacher, arguments, message):
    with pytest.raises(ValueError, match=message): LevelLoss(teacher, **arguments)

@pytest.mark.parametrize('side', ['teacher', 'student'])
def test_missing_tap_is_named(teacher, real, drawn, side):
    less = {t: x for t, x in real.items() if t != 'conv3_2'}
    with pytest.raises(ValueError, match=rf"tap 'conv3_2' is missing in the {side}'s taps: mirror the same teacher"):
        LevelLoss(teacher)(*((less, drawn) if side == 'teacher' else (real, less)))

def test_taps_of_a_smaller_teacher_are_refused(teacher, real):
    with pytest.raises(ValueError, match=r"tap 'conv1_1'|tap 'conv1_2'"):
        LevelLoss(teacher)(real, get_teacher('vgg11', None)(pictures(0)))

@pytest.mark.parametrize('shape', [(2, 16, 64, 64), (1, 16, 32, 32), (2, 8, 32, 32), (16, 32, 32)])
def test_wrong_shape_is_named(teacher, real, drawn, shape):
    wrong = drawn | {'conv1_2': torch.zeros(shape)}
    with pytest.raises(ValueError, match=r"tap 'conv1_2': the teacher has the shape \[2, 16, 32, 32\], "
                                         rf"the student \[{', '.join(map(str, shape))}\]; use the same batch and size"):
        LevelLoss(teacher)(real, wrong)

def test_calibrate_without_batches_is_refused(teacher):
    with pytest.raises(ValueError, match=r'batches'): LevelLoss(teacher).calibrate([])
