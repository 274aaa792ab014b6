"The classroom page and the lessons in a real browser, with every request to other machines blocked and recorded."
import json, os, re, shutil, signal, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHOTS = Path(os.environ.get('SDN_SCREENSHOTS') or ROOT/'tests/screenshots')
WAIT = 1000*int(os.environ.get('SDN_WAIT', 60))              # generous: how fast it is, the benchmarks measure
pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc to see which kernels are there')


def missing(why):
    "A machine without a browser: a reason to skip, but not where everything must be tested."
    (pytest.fail if os.environ.get('CI') else pytest.skip)(why)


@pytest.fixture(scope='session')
def browser():
    try: from playwright.sync_api import sync_playwright
    except ImportError: missing("no Playwright: pip install 'sdn_lite[dev]'")
    chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not chromium: missing("no browser: apt-get install chromium")
    SHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=[
            '--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'])
        yield b
        b.close()


class Watched:
    "A page that notes what went wrong on it: errors in the console, and requests to other machines, which are blocked."
    def __init__(self, browser, height=1300):
        self.context = browser.new_context(viewport=dict(width=1400, height=height))
        self.page, self.errors, self.abroad = self.context.new_page(), [], []
        self.context.route(lambda url: not re.match(r'(https?|ws)://127\.0\.0\.1[:/]|data:|blob:|about:', url),
                           self.block)
        self.page.on('console', lambda m: m.type == 'error' and self.errors.append(m.text))
        self.page.on('pageerror', lambda e: self.errors.append(str(e)))
        self.page.set_default_timeout(WAIT)
    def block(self, route): self.abroad.append(route.request.url); route.abort()
    def shot(self, name):
        self.page.evaluate('() => document.fonts.ready')
        self.page.screenshot(path=SHOTS/f'{name}.png', full_page=True)
    def image(self, nth=0): return self.page.locator('.sdn-page img:visible').nth(nth)
    def alt(self, nth=0): return self.image(nth).get_attribute('alt')
    def picture(self, nth=0): return self.image(nth).get_attribute('src')
    def button(self, name, **kw): return self.page.get_by_role('button', name=name, **kw)
    def tab(self, name, pictures=None):
        "Go to a tab, and wait until all its pictures are there."
        self.page.get_by_role('tab', name=name).click()
        self.page.locator('h2:visible').get_by_text(TITLES[name]).wait_for()
        self.page.wait_for_function(
            "n => { const seen = [...document.querySelectorAll('.sdn-page img')]"
            '.filter(e => e.offsetParent && e.complete && e.naturalWidth); '
            'return n ? seen.length === n : seen.length }', arg=TABS[name] if pictures is None else pictures)
    def fine(self): assert not self.errors and not self.abroad, (self.errors, self.abroad)
    def open(self, url):
        self.page.goto(url); self.page.locator('.sdn-page [role=tab]').first.wait_for(); self.image().wait_for()
        return self


# and how many pictures each shows; in Train live that depends
TABS = {'Play': 1, 'Look inside': 2, 'Train live': 0, 'Ablate': 1}

TITLES = {'Play': 'Type a caption', 'Look inside': 'What does the teacher see',
          'Train live': 'Train a student now', 'Ablate': 'What does each level teach'}


def until(what, seconds=WAIT/1000):
    "Wait until `what()` holds."
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, 'it never came'
        time.sleep(.1)
    return found


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]


def children(pid):
    try: return [int(p) for p in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
    except OSError: return []


def kernels(server):
    "Process ids of the kernels of a running sdn_demo: what its nursery has forked."
    nursery = [p for p in children(server.pid) if b'sdn_lite.classroom' in Path(f'/proc/{p}/cmdline').read_bytes()]
    return [k for n in nursery for k in children(n)]


@contextmanager
def serving(code, port, env=None):
    "A server that runs Python `code`, once it listens."
    server = subprocess.Popen([sys.executable, '-c', code], env=os.environ | (env or {}),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    def listens():
        assert server.poll() is None, server.stdout.read()
        with socket.socket() as s: return not s.connect_ex(('127.0.0.1', port))
    try: until(listens, 120); yield server
    finally:
        server.send_signal(signal.SIGINT)
        try: server.communicate(timeout=30)
        except subprocess.TimeoutExpired: server.kill(); server.communicate(); raise


@pytest.fixture(scope='module')
def demo():
    "A running `sdn_demo` and its address."
    port = free_port()
    with serving(f"from sdn_lite.cli import sdn_demo; sdn_demo(['--no-browser', '--port', '{port}'])", port) as server:
        yield server, f'http://127.0.0.1:{port}/'


@pytest.fixture(scope='module')
def shared(browser, demo):
    "A page that several tests use, one after the other."
    w = Watched(browser).open(demo[1])
    yield w
    w.context.close()


@pytest.fixture
def page(shared): shared.errors.clear(); yield shared; shared.fine()


def test_every_tab_draws_and_no_code_is_seen(page):
    for name in TABS:
        page.tab(name); page.shot(f'tab-{name.lower().replace(" ", "-")}')
        assert not page.page.locator('.jp-InputArea:visible, .jp-CodeMirrorEditor:visible, .highlight:visible').count()
        assert not page.page.get_by_text('Error displaying widget').count()


def test_the_page_says_which_model_draws(page):
    page.tab('Play'); said = page.page.get_by_text('reads your caption').inner_text()
    assert said.endswith('Model: emoji. It was trained on all emoji (2988 pictures) and reads your caption '
                         'by the meaning of its words, in any order, with a word list.')


def test_mathematics_is_set_without_a_network(page):
    page.tab('Look inside')
    page.page.locator('mjx-container, .MathJax').first.wait_for(state='attached')
    assert '$$' not in page.page.locator('.sdn-page').inner_text()


def caption(page, text):
    "Type a caption."
    page.tab('Play'); page.page.get_by_label('caption', exact=True).fill(text)


def test_typing_a_caption_changes_the_picture(page):
    caption(page, 'a red apple'); until(lambda: 'drawn for: a red apple.' in page.alt())
    before = page.picture()
    page.page.get_by_label('caption', exact=True).press_sequentially('s and')    # without Enter
    until(lambda: 'drawn for: a red apples and.' in page.alt()); assert page.picture() != before
    page.page.get_by_label('second caption').fill('a blue heart')
    until(lambda: '0% of the way to a blue heart' in page.alt())
    before = page.picture()
    page.page.get_by_role('slider', name='between').first.focus(); page.page.keyboard.press('End')
    until(lambda: '100% of the way' in page.alt()); assert page.picture() != before
    page.shot('two-captions')
    page.page.get_by_label('second caption').fill(''); until(lambda: 'of the way' not in page.alt())


@pytest.mark.parametrize('text,heard', [
    ('<script>window.hit = 1</script>', '<script>window.hit = 1</script>'),
    ('<img src=x onerror="window.hit = 1">', '<img src=x onerror="window.hit = 1">'),
    ('" onload="window.hit = 1', '" onload="window.hit = 1'),
    ('</textarea><svg onload="window.hit = 1">', '</textarea><svg onload="window.hit = 1">'),
    ('\x1b[31mred', '□[31mred'), ('x'*5000, 'x'*59 + '…'), ('', 'nothing'), ('\u202eelppa', '□elppa'),
    ('🍎 '*9, ' '.join('🍎'*9)), ('火の鳥', '火の鳥'), ('👩\u200d🚀', '👩\u200d🚀'),
    ('$\\href{javascript:window.hit=1}{x}$', '$\\href{javascript:window.hit=1}{x}$')],
    ids=['script', 'img', 'quote', 'svg', 'escape', 'long', 'empty', 'turned', 'emoji', 'chinese', 'joined', 'tex'])
def test_a_caption_is_only_text(page, text, heard):
    caption(page, text); until(lambda: f'drawn for: {heard}.' in page.alt())
    assert page.page.evaluate('window.hit === undefined') and not page.page.locator(
        '.sdn-page img[src=x], .sdn-page [onload], .sdn-page [onerror], .sdn-page svg[onload], '
        '.sdn-page script, .sdn-page mjx-container:visible').count()
    if any(ord(c) > 0x2fff for c in heard):      # the font of the picture lacks it, the browser shows it
        page.page.get_by_text(f'In full: {heard}').wait_for(); page.shot('odd-caption')


def test_a_click_on_a_tap_changes_the_picture(page):
    page.tab('Look inside')
    for nth, what in enumerate(('What the teacher sees at', 'their difference at')):
        for tap in ('conv1_1', 'pool4'):
            before = page.picture(nth); page.page.locator(f'.sdn-tap:visible:has-text("{tap}")').nth(nth).click()
            until(lambda: f'{what} {tap}' in page.alt(nth)); assert page.picture(nth) != before
    page.shot('look-inside-pool4')
    before = page.picture()
    channel = page.page.locator('.widget-toggle-buttons:visible:has-text("channel") button').nth(2)
    number = channel.inner_text(); channel.click()
    until(lambda: f'Channel {number},' in page.alt()); assert page.picture() != before
    page.page.get_by_label('picture', exact=True).first.select_option(index=5); until(lambda: ' in 5: ' in page.alt())
    before = page.picture(1); page.button('the teacher\'s taps of the drawing (Stage-II)').click()
    until(lambda: page.picture(1) != before)


def test_levels_and_stages_can_be_left_out(page):
    page.tab('Ablate'); assert page.alt().startswith('Trained with all levels, both stages')
    before = page.picture(); page.page.get_by_label('mid', exact=True).uncheck()
    until(lambda: page.alt().startswith('Trained with low + high, both stages')); assert page.picture() != before
    page.page.get_by_label('Stage-I', exact=True).uncheck()
    until(lambda: page.alt().startswith('Not trained: low + high, Stage-II')); page.shot('ablate-not-trained')
    for name in ('mid', 'Stage-I'): page.page.get_by_label(name, exact=True).check()
    until(lambda: page.alt().startswith('Trained with all'))


def test_text_size_and_contrast(page):
    title = page.page.locator('.sdn-page h1'); box = lambda: title.bounding_box()['height']
    colour = lambda css, what: page.page.evaluate(f"getComputedStyle(document.querySelector('{css}')).{what}")
    small = box(); page.button('Very large').click(); until(lambda: box() > 1.4*small)
    contrast = page.page.get_by_label('High contrast'); contrast.check()
    until(lambda: colour('.sdn-page', 'backgroundColor') == 'rgb(0, 0, 0)')
    assert colour('.sdn-page h1', 'color') == 'rgb(255, 255, 255)'
    for name in TABS:
        page.tab(name); page.shot(f'large-contrast-{name.lower().replace(" ", "-")}')
        assert page.page.evaluate(
            "document.querySelector('.sdn-page').scrollWidth"
            " <= document.querySelector('.sdn-page').clientWidth + 2"), f'{name} is wider than the page'
    contrast.uncheck(); page.button('Normal').click(); until(lambda: box() == small)


def test_every_control_and_every_picture_has_a_name(page):
    for name in TABS:
        page.tab(name)
        nameless = page.page.evaluate(
            "() => [...document.querySelectorAll('.sdn-page input, .sdn-page select, .sdn-page button, "
            """.sdn-page [role=slider], .sdn-page [tabindex="0"]')]"""
            '.filter(e => e.offsetParent).filter(e => {\n'
            "            const by = (e.getAttribute('aria-labelledby') || '').split(' ')"
            ".map(i => document.getElementById(i)?.textContent || '').join('');\n"
            "            return !((e.textContent || '') + (e.ariaLabel || '') + (e.title || '') + by"
            " + [...(e.labels || [])].map(l => l.textContent).join('')).trim() })"
            '.map(e => e.outerHTML.slice(0, 200))')
        assert not nameless, (name, nameless)
        assert all(i.get_attribute('alt').strip() for i in page.page.locator('img:visible').all())


def test_the_keyboard_alone_is_enough(browser, demo):
    w = Watched(browser).open(demo[1]); key = w.page.keyboard
    focused = lambda: w.page.evaluate(
        "document.activeElement === document.body ? '' : (document.activeElement.innerText"
        ' || document.activeElement.type || document.activeElement.tagName).trim()')
    def reach(what):
        for _ in range(40):
            if focused() == what: return
            key.press('Tab')
        raise AssertionError(f'Tab never reaches {what!r}')
    reach('Large'); key.press('Enter'); w.page.locator('.sdn-zoom-135').wait_for()
    reach('checkbox'); key.press('Space'); w.page.locator('.sdn-contrast').wait_for()
    reach('Play')
    w.shot('keyboard-focus')
    key.press('Tab'); reach('text'); before = w.picture(); key.press('Control+a'); key.type('a green leaf')
    until(lambda: 'a green leaf.' in w.alt()); assert w.picture() != before
    for _ in range(60):                                            # back to the tabs
        if w.page.evaluate("document.activeElement.getAttribute('role')") == 'tab': break
        key.press('Shift+Tab')
    key.press('ArrowRight'); key.press('ArrowRight'); key.press('Enter')
    w.button('Start training').wait_for()
    reach('Start training'); key.press('Enter'); w.page.get_by_text('Training: Stage-').first.wait_for()
    reach('Stop training'); key.press('Enter'); w.page.get_by_text('Stopped after').first.wait_for()
    w.fine(); w.context.close()


def test_training_shows_curves_and_stops_while_the_page_answers(page):
    page.tab('Train live')
    start, stop, status = (page.button('Start training'), page.button('Stop training'),
                           page.page.locator('.sdn-panel .widget-label:visible'))
    # of the least pictures, Stage-I takes a second: it may be over before anybody looks
    page.page.get_by_label('Learn from').select_option(index=1)
    assert page.alt().startswith('No curves yet')
    start.click(); until(lambda: start.is_disabled() and stop.is_enabled())
    page.page.get_by_text('Training: Stage-I.').wait_for()
    status.get_by_text(re.compile(r'Stage-I+, step \d+ of \d+')).first.wait_for()
    assert not page.page.get_by_text('Nothing is being trained').locator('visible=true').count()
    until(lambda: re.match('Loss curves of Stage-I+ up to', page.alt()))
    first = page.picture(); until(lambda: page.picture() != first); page.shot('training')
    caption(page, 'a yellow star'); until(lambda: 'drawn for: a yellow star.' in page.alt())    # it answers meanwhile
    page.tab('Train live'); page.page.get_by_text('Training: Stage-II.').wait_for()
    until(lambda: page.alt().startswith('Loss curves of Stage-II up to')); page.shot('training-stage-ii')
    stop.click(); page.page.get_by_text('Stopped after').wait_for(); page.page.get_by_text('How it went').wait_for()
    page.tab('Train live', 2); page.shot('training-stopped'); assert start.is_enabled() and stop.is_disabled()
    before = page.picture(1); page.page.get_by_role('slider', name='snapshot').first.focus()
    page.page.keyboard.press('End'); until(lambda: page.picture(1) != before)       # the run can be played back


def test_a_second_page_waits_for_its_turn_to_train(browser, demo, page):
    page.tab('Train live'); page.page.get_by_label('Learn from').select_option(index=2)
    page.button('Start training').click(); page.page.get_by_text('Training: Stage-').wait_for()
    other = Watched(browser).open(demo[1]); other.tab('Train live'); other.button('Start training').click()
    other.page.get_by_text('Another page on this machine is training').wait_for()
    assert other.button('Start training').is_enabled()
    page.button('Stop training').click(); page.page.get_by_text('Stopped after').wait_for()
    other.fine(); other.context.close()


def test_closing_the_tab_frees_its_memory(browser, demo):
    from sdn_lite.classroom import own_memory
    before = set(kernels(demo[0])); w = Watched(browser).open(demo[1])
    kernel, = set(kernels(demo[0])) - before; assert own_memory(kernel) > 20         # megabytes that nobody shares
    w.page.close(run_before_unload=True)
    until(lambda: not Path(f'/proc/{kernel}').exists()); w.fine(); w.context.close()


def test_a_browser_that_vanishes_frees_its_kernel(browser):
    port = free_port()
    with serving(f"from sdn_lite.classroom import serve; serve({port}, browser=False, model='emoji-small', forget=5)",
                 port) as server:
        # the one that stays has been idle for longer
        stays, w = (Watched(browser).open(f'http://127.0.0.1:{port}/'),
                    Watched(browser).open(f'http://127.0.0.1:{port}/'))
        stays.page.get_by_text('Model: emoji-small. It was trained on the small set of emoji (387 pictures) '
                               'and reads your caption letter by letter').wait_for()
        assert len(kernels(server)) == 2
        w.page.route('**/shutdown/**', lambda route: route.abort()); w.context.close()    # says nothing when it goes
        until(lambda: len(kernels(server)) == 1)
        caption(stays, 'a green leaf'); until(lambda: 'a green leaf.' in stays.alt()); stays.context.close()


@contextmanager
def in_lab(browser, notebook, folder, changes=()):
    "A copy of `notebook` with `changes`, opened in JupyterLab and run from top to bottom; gives the watched page."
    cells = json.loads(Path(notebook).read_text(encoding='utf-8'))
    # the library stays as it is
    cells['cells'] = [c for c in cells['cells'] if 'nbdev_export' not in ''.join(c['source'])]
    for c in cells['cells']:
        if c['cell_type'] == 'code': c |= dict(outputs=[], execution_count=None)
    for old, new in changes:
        hit = [c for c in cells['cells'] if old in ''.join(c['source'])]; assert hit, f'{notebook} has no {old!r}'
        for c in hit: c['source'] = ''.join(c['source']).replace(old, new)
    folder.mkdir(parents=True, exist_ok=True); (folder/'lesson.ipynb').write_text(json.dumps(cells), encoding='utf-8')
    for name, settings in {
            'notebook-extension/tracker': dict(windowingMode='none'),
            'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False)}.items():
        f = folder/f'settings/@jupyterlab/{name}.jupyterlab-settings'
        f.parent.mkdir(parents=True, exist_ok=True); f.write_text(json.dumps(settings))
    port = free_port()
    options = ['--no-browser', '--allow-root', f'--port={port}', '--ip=127.0.0.1', '--IdentityProvider.token=',
               '--expose-app-in-browser', f'--ServerApp.root_dir={folder}',
               f'--LabApp.user_settings_dir={folder}/settings', f'--LabApp.workspaces_dir={folder}/workspaces',
               '--LabApp.extension_manager=readonly', '--ServerApp.port_retries=0']
    env = dict(JUPYTER_CONFIG_DIR=str(folder/'config'), MPLBACKEND='module://matplotlib_inline.backend_inline')
    with serving(f'import sys; from jupyterlab.labapp import main; sys.exit(main({options!r}))', port, env) as server:
        w = Watched(browser)
        try:
            w.page.goto(f'http://127.0.0.1:{port}/lab/tree/lesson.ipynb')
            w.page.locator('.jp-Notebook .jp-Cell').first.wait_for()
            idle = ('() => { const c = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel; '
                    "return c && c.status === 'idle' }")
            w.page.wait_for_function(idle)
            ended = w.page.evaluate(
                "ms => Promise.race([window.jupyterapp.commands.execute('notebook:run-all-cells')"
                ".then(() => 'ended'), new Promise(f => setTimeout(() => f('not ended'), ms))])", 5*WAIT)
            assert ended == 'ended'
            w.page.wait_for_function(idle)
            bad = w.page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"], '
                                 '.jp-RenderedText[data-mime-type*=stderr]')
            assert not bad.count(), bad.first.inner_text()
            yield w
        finally: server.send_signal(signal.SIGINT); w.context.close()     # it asks back; `serving` sends the second one


def ours(errors):
    "Errors of the console that are not JupyterLab's own."
    return [e for e in errors if not re.search('jupytext|Failed to load resource', e)]


def test_the_page_works_in_jupyterlab_too(browser, tmp_path):
    with in_lab(browser, ROOT/'nbs/demo.ipynb', tmp_path) as w:
        w.image().wait_for(); w.tab('Play'); w.shot('lab-page')
        w.tab('Train live'); w.button('Start training').wait_for()
        assert not ours(w.errors) and not w.abroad, (w.errors, w.abroad)


def test_every_widget_is_drawn_in_jupyterlab(browser, tmp_path):
    # a shorter training, all else is the lesson
    with in_lab(browser, ROOT/'nbs/08_widgets.ipynb', tmp_path, [('epochs=(20, 40)', 'epochs=(2, 4)')]) as w:
        panels = w.page.locator('.jp-OutputArea-output .sdn-panel'); panels.nth(5).wait_for(state='attached')
        assert panels.count() == 6
        assert (not w.page.get_by_text('Error displaying widget').count()
                and not w.page.get_by_text('Loading widget').count())
        for panel, what in zip(panels.all(), (
                'What the teacher sees', 'Teacher, student and their difference', 'Loss curves of Stage-II',
                'Drawn at step', 'Trained with', "The student's taps")):
            panel.scroll_into_view_if_needed(); image = panel.locator('img'); image.wait_for()
            until(lambda: image.evaluate('e => e.complete && e.naturalWidth > 500')); alt = image.get_attribute('alt')
            assert alt.startswith(what) or alt.startswith('Not trained'), alt
            panel.screenshot(path=SHOTS/f'lab-{what.split()[0].lower()}.png')
        image = panels.first.locator('img'); before = image.get_attribute('src')
        panels.first.locator('.sdn-tap:has-text("conv1_2")').click()
        until(lambda: 'sees at conv1_2' in image.get_attribute('alt')); assert image.get_attribute('src') != before
        assert not ours(w.errors) and not w.abroad, (w.errors, w.abroad)
