import gc, io, json, time
from base64 import b64encode
from html.parser import HTMLParser
import ipywidgets as widgets, matplotlib.pyplot as plt, numpy as np, pytest, torch, torch.nn.functional as F
from matplotlib import rcParams
from PIL import Image
from torchvision.utils import save_image
from sdn_lite import widgets as ours
from sdn_lite.data import ASSETS
from sdn_lite.all import Run, TextToImage, distill, load_emoji, load_folder
from sdn_lite.text import Precomputed
from sdn_lite.widgets import (LevelMixer, LossBoard, Nearest, Playground, SymmetryViewer, TeacherExplorer, Timeline,
                              Tower, plain, png_of)

HOSTILE = ['', ' ', '<script>alert(1)</script>', '<img src=x onerror=alert(1)>', '\x1b[2J\x1b]0;x\x07',
           '\u202edrawkcab', '🐯👩‍👩‍👧', '$\\frac{', '\x00\x07\x1f', '\ud800', 'x'*10_000, 'word '*2_000, '\n\n', '虎']

def pixels(panel):
    "The picture that the page shows."
    assert panel.png[:8] == b'\x89PNG\r\n\x1a\n' and b64encode(panel.png).decode() in panel.view.value
    with Image.open(io.BytesIO(panel.png)) as f: return np.asarray(f.convert('RGB')).copy()

def changes(panel, change):
    "Whether `change` changes the picture on the page."
    before = panel.png; change()
    return panel.png != before

def read(html):
    "The tags with their attributes, and the text, as a browser reads them."
    tags, words = [], []; parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs))); parser.handle_data = words.append
    parser.feed(html); parser.close()
    return tags, ''.join(words)

def texts(figure): return [t.get_text() for ax in figure.axes for t in ax.texts]

def everything(widget):
    yield widget
    for c in getattr(widget, 'children', ()): yield from everything(c)

@pytest.fixture(scope='module')
def ds(): return load_emoji('small', 'valid')
@pytest.fixture(scope='module')
def names(ds): return [ds.captions(i)[0] for i in range(len(ds))]
@pytest.fixture(scope='module')
def t2i(): return TextToImage.from_pretrained('emoji-small')

@pytest.fixture
def explorer(teacher, ds, names): return TeacherExplorer(teacher, ds.images(), names)
@pytest.fixture
def symmetry(teacher, t2i, ds, names):
    return SymmetryViewer(teacher, t2i.student, ds.images(), t2i.encoder(names), names)
@pytest.fixture
def playground(t2i, ds): return Playground(t2i, ds)

@pytest.fixture
def ablation(tmp_path):
    "Three students, two pictures: every strip has one grey of its own."
    def strip(name, grey): save_image(torch.full((3, 64, 128), grey), tmp_path/name)
    strip('real.png', .9); rows = []
    for k, (levels, stages) in enumerate([
            (['low', 'mid', 'high'], [1, 2]), (['low'], [1, 2]), (['low', 'mid', 'high'], [1])]):
        strip(f'{k}.png', .2 + .1*k)
        rows.append(dict(levels=levels, stages=stages, file=f'{k}.png',
                         r1_of_100=dict(train=.5 + .1*k, unseen=.05), seconds=100 + k))
    (tmp_path/'ablation.json').write_text(json.dumps(dict(captions=['a cat', '<b>$x</b>'], rows=rows, real='real.png')))
    return tmp_path

@pytest.fixture
def panels(explorer, symmetry, playground, finished, ablation):
    return dict(explorer=explorer, symmetry=symmetry, playground=playground, timeline=Timeline(finished),
                board=LossBoard(), mixer=LevelMixer(ablation))

# ---------------------------------------------------------------- what all have in common

def test_every_control_has_a_label_and_a_tooltip_and_every_figure_is_a_figure(panels):
    for name, panel in panels.items():
        for w in everything(panel):
            if isinstance(w, (widgets.Box, widgets.Image, widgets.Label, widgets.HTML)): continue
            assert w.description and w.tooltip, (name, w)
        assert len(pixels(panel)) > 100 and png_of(panel.figure())[:4] == b'\x89PNG'
        assert panel._repr_mimebundle_()['text/plain'].startswith(type(panel).__name__)
    assert plt.get_fignums() == []

def test_the_page_shows_what_the_figure_shows(panels):
    for name, panel in panels.items():
        for full in (False, True):
            still = panel.draw(full); page = still.pixels()/255
            with Image.open(io.BytesIO(png_of(still.figure()))) as f: figure = np.asarray(f)/255
            # letters differ a little
            assert page.shape == figure.shape and abs(page - figure).mean() < .03, (name, full)
            dark = page.mean(2) < .7, figure.mean(2) < .7; assert .7 < dark[0].sum()/dark[1].sum() < 1.4, (name, full)

def test_every_picture_has_words_for_those_who_cannot_see_it(panels, names):
    for panel in panels.values():
        (tag, attributes), *_ = read(panel.view.value)[0]
        assert tag == 'img' and attributes['alt'] == plain(panel.describe(), 2000) and len(attributes['alt']) > 10
        assert (int(attributes['width']), int(attributes['height'])) == pixels(panel).shape[1::-1]
    panels['explorer'].tower.picked = 'conv2_1'
    assert f'sees at conv2_1 in 0: {names[0]}' in panels['explorer'].describe()
    panels['playground'].caption.value = 'a "cat"'
    assert ('drawn for: a "cat".' in panels['playground'].describe()
            and 'a &quot;cat&quot;' in panels['playground'].view.value)

def test_pictures_grow_with_the_font_size(explorer, monkeypatch):
    small = pixels(explorer).shape
    monkeypatch.setitem(rcParams, 'font.size', 15); explorer.redraw()
    assert pixels(explorer).shape[0] == pytest.approx(1.5*small[0], abs=2)

def test_interaction_leaves_nothing_behind_and_close_takes_everything_away(explorer, playground):
    from ipywidgets.widgets.widget import _instances
    def use():
        for tap in ('conv1_1', 'pool5', 'image'): explorer.tower.picked = tap
        for c in ('a cat', ''): playground.caption.value = c
    use(); gc.collect()
    count = len(_instances), len([o for o in gc.get_objects() if type(o) in (ours.Still, ours.Sheet)])
    for _ in range(3): use()
    gc.collect()
    assert (len(_instances), len([o for o in gc.get_objects() if type(o) in (ours.Still, ours.Sheet)])) == count
    inside = {w.model_id for p in (explorer, playground) for w in everything(p)}
    explorer.close(); playground.close()
    assert not inside & set(_instances) and len(_instances) < count[0] - 2*len(inside)        # styles and layouts too

@pytest.mark.parametrize('text', HOSTILE, ids=lambda t: repr(t)[:20])
def test_drawn_text_is_one_short_line_that_the_font_has(text, recwarn):
    line = plain(text)
    assert len(line) <= 60 and line.replace('\u200d', '').isprintable()
    still = ours.Still(2, 1); still.say(0, .5, line); png_of(still.figure()); still.pixels()
    assert bool(still.boxes) == any(ord(c) > 0x2fff or c == '\u200d' for c in line)      # what the font lacks is kept
    assert not recwarn

# ---------------------------------------------------------------- the tower and the explorer

def test_a_button_picks_its_tap_and_one_is_marked(teacher):
    tower = Tower(teacher.taps)
    assert len(tower.buttons) == 22
    for name in ('image', 'pool5', 'conv3_2'):
        tower.buttons[name].click()
        assert tower.picked == name and [
            n for n, b in tower.buttons.items() if '▶' in b.description and 'sdn-picked' in b._dom_classes] == [name]

def test_explorer_shows_the_strongest_channels_and_what_excites_them(explorer, teacher, ds):
    explorer.which.value = 5; assert changes(explorer, explorer.tower.buttons['conv4_2'].click)
    taps = teacher(ds.images())['conv4_2']; mean = taps[5].mean((1, 2))
    assert [c for _, c in explorer.channel.options] == mean.topk(8).indices.tolist()
    assert changes(explorer, lambda: setattr(explorer.channel, 'index', 3))
    c = explorer.channel.value; words = texts(explorer.figure())
    assert (f'mean {mean[c]:.3g}' in words and f'zeros {(taps[5, c] == 0).float().mean():.0%}' in words
            and f'largest {taps[5, c].max():.3g}' in words)
    best = taps[:, c].mean((1, 2)).topk(4)
    torch.testing.assert_close(explorer.means['conv4_2'][:, c].topk(4).values, best.values)
    assert all(f'{v:.3g}' in words for v in best.values.tolist())
    assert changes(explorer, lambda: setattr(explorer.which, 'value', 6))

def test_every_tap_can_be_shown(explorer, symmetry):
    for panel in (explorer, symmetry):
        seen = set()
        for b in panel.tower.buttons.values(): b.click(); seen.add(panel.png)
        assert len(seen) == 22

def test_explorer_refuses_what_it_cannot_read(teacher, ds):
    for images in (ds.images()[0], ds.images()[:0], 'cat', ds.images().byte()):
        with pytest.raises(ValueError, match=r'\[N, 3, H, W\]'): TeacherExplorer(teacher, images)
    with pytest.raises(ValueError, match='captions holds 1'): TeacherExplorer(teacher, ds.images(), ['a'])
    TeacherExplorer(teacher, ds.images([0]), ['<script>\x1b$'])                       # one picture is enough

def test_a_click_is_quick(explorer, symmetry):
    times = []
    for tap in ('conv1_1', 'pool5', 'conv4_2', 'conv2_2', 'conv3_4')*2:
        for panel in (explorer, symmetry):
            t = time.process_time(); panel.tower.buttons[tap].click(); times.append(time.process_time() - t)
    assert np.median(times) < .2

# ---------------------------------------------------------------- symmetry

@pytest.mark.parametrize('stage', [1, 2])
def test_symmetry_shows_the_loss_of_each_tap(symmetry, teacher, t2i, ds, names, stage):
    symmetry.stage.value = stage; symmetry.which.value = 3
    real, own = teacher(ds.images([3])), t2i.student.taps(t2i.encoder(names[3:4]))
    if stage == 2: own = teacher(own['image'])
    size = {t: x.abs().mean() for t, x in teacher(ds.images()).items()}
    for tap in ('image', 'conv3_4', 'pool5'):
        loss = (real[tap] - own[tap]).abs().mean()/size[tap]
        symmetry.tower.picked = tap
        assert (f'{tap}: loss {loss:.2f}' in texts(symmetry.figure())
                and f'{loss:.2f}' in symmetry.tower.buttons[tap].description)
    worst = max(symmetry.report.taps, key=symmetry.report.taps.get)
    assert symmetry.tower.buttons[worst].style.button_color == ours.shade_of(1, 1)

def test_symmetry_reacts_and_refuses(symmetry, teacher, t2i, student, ds, names):
    assert (changes(symmetry, lambda: setattr(symmetry.stage, 'value', 2))
            and changes(symmetry, lambda: setattr(symmetry.which, 'value', 2)))
    z = t2i.encoder(names)
    with pytest.raises(ValueError, match='z holds 2'): SymmetryViewer(teacher, t2i.student, ds.images(), z[:2])
    with pytest.raises(ValueError, match='size=32'): SymmetryViewer(teacher, student, ds.images(), z)

# ---------------------------------------------------------------- training

@pytest.mark.usefixtures('quick_report')
def test_board_follows_a_training(tiny):
    board = LossBoard(seconds=0); seen, views = [], set()
    def watch(run, news): board.next = 0; seen.append(news); stop = board(run, news); views.add(board.png); return stop
    run = distill(tiny(epochs=(10, 10), snapshots=2), progress=False, watch=watch, callback=board.drawn)
    log = run.log()
    assert board.columns['step'] == list(range(10, 61, 10)) == [int(s) for s in log['step'][9::10]]
    for c in ('total', 'low', 'mid', 'high'): assert board.columns[c] == pytest.approx(log[c][9::10], rel=1e-4)
    assert board.status.value == 'Finished after 60 steps.' and board.bar.value == board.bar.max == 60
    words = ' '.join(texts(board.figure())); assert 'Drawn at step 60, in Stage-II' in words
    with Image.open(run.folder/'samples/step_000060.png') as f: grid = np.asarray(f)/255
    assert np.array_equal(board.snapshot[2][1], grid[2:34, 36:68])
    train = load_folder(run.config.data, 32, 'train')
    assert board.captions == [train.captions(k*len(train)//8)[0] for k in range(8)]
    assert len(views) > 4 and plt.get_fignums() == []

@pytest.mark.usefixtures('quick_report')
def test_stop_ends_a_training_in_the_background_and_it_can_go_on(tiny):
    board = LossBoard(seconds=0)
    thread = board.train(tiny(epochs=(400, 400), snapshots=1))
    with pytest.raises(ValueError, match='still running'): board.train(tiny())
    end = time.monotonic() + 40
    while not board.columns['step'] and time.monotonic() < end: time.sleep(.02)
    board.stop.click(); thread.join(40)
    assert not thread.is_alive() and board.status.value.startswith('Stopped in Stage-I')
    run = Run(board.run.folder); last = run.log()['step'][-1]
    assert not run.finished and last % 10 == 0
    thread = board.train(run.folder)                                               # the past is there again
    while (thread.is_alive() and (not board.columns['step'] or board.columns['step'][-1] <= last)
           and time.monotonic() < end):
        time.sleep(.02)
    board.stop.click(); thread.join(40)
    steps = board.columns['step']
    assert steps == list(range(10, steps[-1] + 1, 10)) and steps[-1] > last

def test_board_says_what_went_wrong(tiny):
    board = LossBoard(); board.train(tiny(data='no<b>where')).join(40)
    assert board.status.value.startswith('Ended: ') and 'is not a folder' in board.status.value

def test_board_draws_no_more_often_than_it_may(finished, monkeypatch):
    board, count = LossBoard(seconds=60), []
    monkeypatch.setattr(board, 'draw', lambda full: count.append(1) or ours.Still(1, 1))
    for step in range(10, 500, 10):
        assert board(finished, dict(stage=1, step=step, steps=[500, 500], total=1., low=1., mid=1., high=1.,
                                    images_per_second=9.)) is False
    assert len(count) == 1

def test_timeline_plays_a_run(finished):
    timeline = Timeline(finished)
    assert timeline.steps == list(range(1, 13)) and timeline.stages == [1]*6 + [2]*6 and timeline.border == 6
    assert (changes(timeline, lambda: setattr(timeline.at, 'value', 7))
            and 'Stage-II, step 8 of 12' in texts(timeline.figure()))
    assert changes(timeline, lambda: setattr(timeline.play, 'value', 3)) and timeline.at.value == 3
    with Image.open(finished.folder/'samples/step_000004.png') as f: grid = np.asarray(f)/255
    assert np.array_equal(timeline.read(3)[2], grid[2:34, 70:102])
    assert (changes(timeline, lambda: setattr(timeline.chosen, 'value', (6,)))
            and timeline.captions[6] in texts(timeline.figure()))
    assert changes(timeline, lambda: setattr(timeline.chosen, 'value', ()))
    assert Timeline(str(finished.folder)).steps == timeline.steps

def test_timeline_needs_snapshots(finished, tmp_path):
    (tmp_path/'config.json').write_text((finished.folder/'config.json').read_text())
    with pytest.raises(ValueError, match='no snapshots: train with'): Timeline(tmp_path)
    (tmp_path/'samples').mkdir(); (tmp_path/'samples/step_000001.png').write_bytes(b'cut off')
    with pytest.raises(ValueError, match='step_000001.png is damaged'): Timeline(tmp_path)

# ---------------------------------------------------------------- mixer

def test_mixer_shows_what_was_trained(ablation):
    mixer = LevelMixer(ablation)
    words = texts(mixer.figure())
    assert 'Trained with all levels, both stages' in words and any(
        '50% for captions seen' in w and '5% for others' in w and '100 s' in w for w in words)
    def low(): mixer.levels['mid'].value = mixer.levels['high'].value = False
    assert changes(mixer, low)
    row, exact = mixer.row()
    assert exact and row['file'] == '1.png' and np.allclose(row['pictures'][1], 76/255, atol=1/255)

def test_mixer_names_the_nearest_of_what_was_not_trained(ablation):
    mixer = LevelMixer(ablation); mixer.levels['low'].value = False; mixer.stages[2].value = False
    words = texts(mixer.figure())
    assert ('Not trained: mid + high, Stage-I' in words
            and 'The nearest that was trained: all levels, Stage-I. Its pictures:' in words)
    for w in (*mixer.levels.values(), *mixer.stages.values()): w.value = False
    assert any('Tick at least one' in w for w in texts(mixer.figure()))

@pytest.mark.parametrize('break_, message', [
    (lambda f: (f/'ablation.json').unlink(), 'ablation.json is missing'),
    (lambda f: (f/'ablation.json').write_text('{'), 'ablation.json is damaged'),
    (lambda f: (f/'1.png').unlink(), '1.png cannot be read'),
    (lambda f: save_image(torch.zeros(3, 64, 64), f/'0.png'), 'one square picture for each of the 2'),
    (lambda f: (f/'ablation.json').write_text('{"captions": [], "rows": [], "real": "real.png"}'),
     'ablation.json is damaged')])
def test_mixer_names_the_file_that_is_wrong(ablation, break_, message):
    break_(ablation)
    with pytest.raises((ValueError, FileNotFoundError), match=message): LevelMixer(ablation)

# ---------------------------------------------------------------- playground

def test_playground_draws_what_the_model_draws(playground, t2i):
    assert changes(playground, lambda: setattr(playground.caption, 'value', 'tiger face'))
    torch.testing.assert_close(playground.image, t2i.images(['tiger face'])[0])
    assert playground.between.disabled
    playground.second.value = 'sunflower'; assert not playground.between.disabled
    assert changes(playground, lambda: setattr(playground.between, 'value', .25))
    a, b = t2i.encoder(['tiger face', 'sunflower'])
    torch.testing.assert_close(playground.image, t2i.student((a + .25*(b - a))[None])[0].clamp(0, 1), atol=1e-4, rtol=0)
    playground.between.value = 1
    torch.testing.assert_close(playground.image, t2i.images(['sunflower'])[0], atol=1e-4, rtol=0)

def test_playground_shows_every_tap(playground):
    assert (playground.names == list(playground.taps)[::-1]
            and playground.names[0] == 'pool5' and playground.names[-1] == 'image')
    seen = {playground.png}
    for k in range(22): playground.play.value = k; seen.add(playground.png)
    assert len(seen) == 22 and playground.layer.value == 'image'

def test_colours_of_a_tap_are_its_principal_components(t2i):
    x = t2i.student.taps(torch.randn(4, 256))['conv2_1']
    mean, directions, low, high = ours.tap_axes(dict(conv2_1=x))['conv2_1']
    flat = x.permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(mean, flat.mean(0))
    variance = torch.linalg.svdvals(flat - mean).square()[:3]/(len(flat) - 1)
    torch.testing.assert_close(((flat - mean) @ directions).var(0), variance, rtol=1e-2, atol=1e-6)
    assert ours.tap_colours(x[0], (mean, directions, low, high)).shape == (32, 32, 3)

def test_the_nearest_picture_of_a_known_one_is_itself(teacher, ds, playground, t2i):
    nearest = Nearest(ds, teacher)
    for i in (0, 7): found, alike = nearest(ds[i]['image']); assert found == i and alike == pytest.approx(1, abs=1e-4)
    assert -1 < nearest.usual < 1
    playground.caption.value = 'a red apple'; cosine = 0
    for tap in ('pool4', 'pool5'):
        known, mine = teacher(ds.images())[tap].flatten(1), teacher(t2i.images(['a red apple']))[tap].flatten(1)
        cosine = cosine + F.cosine_similarity(known - known.mean(0), mine - known.mean(0))/2
    i, alike = playground.found
    assert (i == cosine.argmax() and alike == pytest.approx(cosine.max().item(), abs=1e-4)
            and any(f'alike: {alike:.2f}' in t for t in texts(playground.figure())))

def test_what_the_teacher_saw_can_be_kept(teacher, ds, tmp_path):
    nearest = Nearest(ds, teacher); nearest.save(tmp_path/'seen.safetensors')
    again = Nearest(ds, teacher, tmp_path/'seen.safetensors')
    for i in (0, 7): found, alike = again(ds[i]['image']); assert found == i and alike == pytest.approx(1, abs=1e-3)
    assert again.usual == pytest.approx(nearest.usual, abs=1e-3)
    for other in (load_emoji('small', 'train'), load_emoji('small', 'valid', 32)):
        with pytest.raises(
                ValueError, match='seen.safetensors was made for other pictures or another teacher: leave it out'):
            Nearest(other, teacher, tmp_path/'seen.safetensors')

def test_the_bundled_file_is_of_the_bundled_pictures():
    nearest = Nearest(load_emoji('all'), None, ASSETS/'emoji/nearest.safetensors')
    found, alike = nearest(nearest.known[1234]['image'])
    assert found == 1234 and alike == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize('text', HOSTILE, ids=lambda t: repr(t)[:20])
def test_any_text_is_shown_as_text(t2i, ds, text, recwarn):
    playground = Playground(t2i, None)
    playground.caption.value = playground.second.value = text
    assert pixels(playground).shape[1] > 500 and png_of(playground.figure())
    for w in everything(playground):        # nothing else reads markup
        assert w is playground.view or not isinstance(w, (widgets.HTML, widgets.HTMLMath, widgets.Label))
    tags, words = read(playground.view.value)
    assert ([t for t, _ in tags] == ['img', 'p'][:len(tags)]
            and set(tags[0][1]) == {'alt', 'width', 'height', 'decoding', 'style', 'src'}
            and not any(a for _, a in tags[1:]))
    drawn = plain(text)
    assert (drawn or 'nothing') in tags[0][1]['alt'] and ('虎' not in text or f'In full: {drawn}' in words)
    assert not [w for w in recwarn if 'Glyph' in str(w.message)]

def test_playground_refuses_models_without_words_and_other_sizes(t2i):
    with pytest.raises(ValueError, match='reads ready text vectors'):
        Playground(TextToImage(Precomputed(256), t2i.student))
    with pytest.raises(ValueError, match='one of 64 px'): Playground(t2i, load_emoji('small', 'valid', 32))

def test_our_html_is_a_constant(panels):
    for panel in panels.values():
        for w in everything(panel):
            if isinstance(w, widgets.HTML): assert w is panel.view or w.value == ours.CSS
