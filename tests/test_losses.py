import pytest, torch
from sdn_lite.losses import LevelLoss
from sdn_lite.teacher import LEVELS, get_teacher

def pictures(seed): return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))

@pytest.fixture(scope='module')
def real(teacher): return teacher(pictures(0))
@pytest.fixture(scope='module')
def drawn(teacher): return teacher(pictures(1))

def by_hand(teacher, real, drawn, magnitude=lambda tap: 1., power=1):
    "Each tap's mean absolute (or with power 2, squared) difference and the sums of the levels, number by number."
    taps = {t.name: sum(abs(a - b)**power for a, b in zip(real[t.name].flatten().tolist(), drawn[t.name].flatten().tolist()))/real[t.name].numel()/magnitude(t.name)**power for t in teacher.taps}
    return taps, {l: sum(v for t, v in taps.items() if next(u.level for u in teacher.taps if u.name == t) == l) for l in LEVELS}

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

def test_raw_stays_raw_after_calibrate(teacher, real, drawn):
    assert_report(LevelLoss(teacher, scale='raw').calibrate([real])(real, drawn), *by_hand(teacher, real, drawn))

@pytest.mark.parametrize('scale', ['raw', 'calibrated'])
@pytest.mark.parametrize('distance', ['l1', 'l2'])
def test_equal_taps_have_no_loss(teacher, real, scale, distance):
    report = LevelLoss(teacher, scale=scale, distance=distance)(real, real)
    assert report.total == 0 and all(v == 0 for v in (*report.taps.values(), *report.levels.values()))

@pytest.mark.parametrize('weights, expected', [({'low': 2., 'mid': 0., 'high': .5}, (2, 0, .5)), ({'mid': 3.}, (1, 3, 1)), ({}, (1, 1, 1)), (None, (1, 1, 1))])
def test_level_weights_multiply_the_levels(teacher, real, drawn, weights, expected):
    assert_report(LevelLoss(teacher, weights, 'raw')(real, drawn), *by_hand(teacher, real, drawn), expected)

def test_gradient_reaches_the_student_and_stops_at_the_scale(teacher, real, drawn):
    mine = {t: x.clone().requires_grad_() for t, x in drawn.items()}
    loss = LevelLoss(teacher); loss(real, mine).total.backward()
    assert all(x.grad.abs().sum() > 0 for x in mine.values()) and not loss.magnitudes.requires_grad

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
    with pytest.raises(ValueError, match=rf"tap 'conv3_2' is missing in the {side}'s taps: use one of image, .*mirror the same teacher"):
        LevelLoss(teacher)(*((less, drawn) if side == 'teacher' else (real, less)))

def test_taps_of_a_smaller_teacher_are_refused(teacher, real):
    with pytest.raises(ValueError, match=r"tap 'conv1_1'|tap 'conv1_2'"): LevelLoss(teacher)(real, get_teacher('vgg11', None)(pictures(0)))

@pytest.mark.parametrize('shape', [(2, 16, 64, 64), (1, 16, 32, 32), (2, 8, 32, 32), (16, 32, 32)])
def test_wrong_shape_is_named(teacher, real, drawn, shape):
    wrong = drawn | {'conv1_2': torch.zeros(shape)}
    with pytest.raises(ValueError, match=rf"tap 'conv1_2': the teacher has the shape \[2, 16, 32, 32\], the student \[{', '.join(map(str, shape))}\]; use the same batch and size"): LevelLoss(teacher)(real, wrong)

def test_calibrate_without_batches_is_refused(teacher):
    with pytest.raises(ValueError, match=r'batches'): LevelLoss(teacher).calibrate([])
