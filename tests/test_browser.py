"The classroom page and the lessons in a real browser, with every request to other machines blocked and recorded."
import json, os, re, shutil, signal, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
SHOTS = Path(os.environ.get('SDN_SCREENSHOTS') or ROOT/'tests/screenshots')
WAIT = 60_000                                              # generous: how fast it is, the benchmarks measure
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
        b = p.chromium.launch(executable_path=chromium, args=['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'])
        yield b
        b.close()


class Watched:
    "A page that notes what went wrong on it: errors in the console, and requests to other machines, which are blocked."
    def __init__(self, browser, height=1000):
        self.context = browser.new_context(viewport=dict(width=1400, height=height))
        self.page, self.errors, self.abroad = self.context.new_page(), [], []
        self.context.route(lambda url: not re.match(r'(https?|ws)://127\.0\.0\.1[:/]|data:|blob:|about:', url), self.block)
        self.page.on('console', lambda m: m.type == 'error' and self.errors.append(m.text))
        self.page.on('pageerror', lambda e: self.errors.append(str(e)))
        self.page.set_default_timeout(WAIT)
    def block(self, route): self.abroad.append(route.request.url); route.abort()
    def shot(self, name): self.page.screenshot(path=SHOTS/f'{name}.png')
    def picture(self, nth=0): return self.page.locator('.sdn-page img:visible').nth(nth).get_attribute('src')
    def tab(self, name): self.page.get_by_role('tab', name=name).click()
    def fine(self): assert not self.errors and not self.abroad, (self.errors, self.abroad)
    def open(self, url): self.page.goto(url); self.page.locator('.sdn-page [role=tab]').first.wait_for(); return self


def until(what, seconds=60):
    "Wait until `what()` holds."
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, 'it never came'
        time.sleep(.2)


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
    server = subprocess.Popen([sys.executable, '-c', code], env=os.environ | (env or {}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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
    with serving(f"from sdn_lite.cli import sdn_demo; sdn_demo(['--no-browser', '--port', '{port}'])", port) as server: yield server, f'http://127.0.0.1:{port}/'


@pytest.fixture(scope='module')
def shared(browser, demo):
    "A page that several tests use, one after the other."
    w = Watched(browser).open(demo[1])
    yield w
    w.context.close()


@pytest.fixture
def page(shared): shared.errors.clear(); yield shared; shared.fine()


def test_every_tab_draws_and_no_code_is_seen(page):
    page.tab('Play'); page.page.locator('.sdn-page img:visible').first.wait_for()
    assert not page.page.locator('.jp-InputArea:visible, .jp-CodeMirrorEditor:visible, .highlight:visible').count()
    for name, first in {'Play': 'Caption', 'Look inside': None, 'Train live': 'Learn from', 'Ablate': None}.items():
        page.tab(name); page.page.locator('.sdn-page h2:visible').first.wait_for()
        if first: page.page.get_by_text(re.compile(f'^{first}', re.I)).locator('visible=true').first.wait_for()
        page.page.wait_for_timeout(1500); page.shot(f'tab-{name.lower().replace(" ", "-")}')


def test_mathematics_is_set_without_a_network(page):
    page.tab('Look inside')
    page.page.locator('mjx-container, .MathJax').first.wait_for(state='attached'); assert '$$' not in page.page.locator('.sdn-page').inner_text()


def test_typing_a_caption_changes_the_picture(page):
    page.tab('Play'); box = page.page.locator('.sdn-page input[type=text]:visible').first
    before = page.picture(); box.fill('a blue circle'); box.press('Enter')
    until(lambda: page.picture() != before)
    page.shot('typed')


@pytest.mark.parametrize('text', ['<script>window.hit = 1</script>', '<img src=x onerror="window.hit = 1">', '</textarea><svg onload="window.hit = 1">', '\x1b[31mred', 'x'*5000, '', '🍎 ' * 40, '$\\href{javascript:hit=1}{x}$'],
                         ids=['script', 'img', 'svg', 'escape', 'long', 'empty', 'emoji', 'tex'])
def test_a_caption_is_only_text(page, text):
    page.tab('Play'); box = page.page.locator('.sdn-page input[type=text]:visible').first
    box.fill('a red apple'); box.press('Enter'); page.page.wait_for_timeout(400); red = page.picture()
    box.fill(text); box.press('Enter'); until(lambda: page.picture() != red)
    page.page.wait_for_timeout(300)
    assert page.page.evaluate('window.hit') is None and not page.page.locator('.sdn-page img[src=x], .sdn-page svg[onload], .sdn-page script').count()
    page.shot('odd-caption')


def test_text_size_and_contrast(page):
    title = page.page.locator('.sdn-page h1'); box = lambda: title.bounding_box()['height']
    small = box(); page.page.get_by_role('button', name='Very large').click(); until(lambda: box() > 1.4*small)
    contrast = page.page.get_by_label('High contrast'); contrast.check()
    until(lambda: page.page.evaluate("getComputedStyle(document.querySelector('.sdn-page')).backgroundColor") == 'rgb(0, 0, 0)')
    assert page.page.evaluate("getComputedStyle(document.querySelector('.sdn-page h1')).color") == 'rgb(255, 255, 255)'
    for name in ('Play', 'Train live'): page.tab(name); page.page.wait_for_timeout(500); page.shot(f'large-contrast-{name.lower().replace(" ", "-")}')
    # nothing is wider than the page
    assert page.page.evaluate("document.querySelector('.sdn-page').scrollWidth <= document.querySelector('.sdn-page').clientWidth + 2")
    contrast.uncheck(); page.page.get_by_role('button', name='Normal').click(); until(lambda: box() == small)


def test_every_control_has_a_name(page):
    for name in ('Play', 'Look inside', 'Train live', 'Ablate'):
        page.tab(name); page.page.wait_for_timeout(500)
        nameless = page.page.evaluate("""() => [...document.querySelectorAll('.sdn-page input, .sdn-page select, .sdn-page button, .sdn-page [role=slider], .sdn-page [tabindex="0"]')].filter(e => e.offsetParent).filter(e => {
            const by = (e.getAttribute('aria-labelledby') || '').split(' ').map(i => document.getElementById(i)?.textContent || '').join('');
            const near = e.closest('.jupyter-widgets')?.querySelector('.widget-label')?.textContent || '';
            return !((e.textContent || '') + (e.ariaLabel || '') + (e.title || '') + by + [...(e.labels || [])].map(l => l.textContent).join('') + near).trim() }).map(e => e.outerHTML.slice(0, 200))""")
        assert not nameless, (name, nameless)


def test_the_keyboard_alone_is_enough(browser, demo):
    w = Watched(browser).open(demo[1]); key = w.page.keyboard
    focused = lambda: w.page.evaluate("document.activeElement === document.body ? '' : (document.activeElement.innerText || document.activeElement.type || document.activeElement.tagName).trim()")
    def reach(what):
        for _ in range(40):
            if focused() == what: return
            key.press('Tab')
        raise AssertionError(f'Tab never reaches {what!r}')
    reach('Large'); key.press('Enter'); w.page.locator('.sdn-zoom-135').wait_for()
    reach('checkbox'); key.press('Space'); w.page.locator('.sdn-contrast').wait_for()
    reach('Play')
    w.shot('keyboard-focus')
    key.press('Tab'); reach('text'); before = w.picture(); key.press('Control+a'); key.type('a green leaf'); key.press('Enter'); until(lambda: w.picture() != before)
    for _ in range(60):                                            # back to the tabs
        if w.page.evaluate("document.activeElement.getAttribute('role')") == 'tab': break
        key.press('Shift+Tab')
    key.press('ArrowRight'); key.press('ArrowRight'); key.press('Enter')
    w.page.get_by_role('button', name='Start training').wait_for()
    reach('Start training'); key.press('Enter'); w.page.get_by_text('Training: Stage-I').first.wait_for()
    reach('Stop training'); key.press('Enter'); w.page.get_by_text('Stopped after').first.wait_for()
    w.fine(); w.context.close()


def test_training_shows_curves_and_stops_while_the_page_answers(page, demo):
    page.tab('Train live'); start, stop = (page.page.get_by_role('button', name=f'{b} training') for b in ('Start', 'Stop'))
    empty = page.picture() if page.page.locator('.sdn-page img:visible').count() else ''
    start.click(); page.page.get_by_text('Training: Stage-I').first.wait_for(); until(lambda: page.picture() not in (empty, None))
    first = page.picture(); until(lambda: page.picture() != first); page.shot('training')
    assert start.is_disabled() and stop.is_enabled()
    page.tab('Play'); box = page.page.locator('.sdn-page input[type=text]:visible').first; before = page.picture()
    box.fill('a yellow star'); box.press('Enter'); until(lambda: page.picture() != before)                       # it answers meanwhile
    page.tab('Train live'); page.page.get_by_text('Training: Stage-II').first.wait_for(); page.page.wait_for_timeout(4000)
    stop.click(); page.page.get_by_text('Stopped after').first.wait_for(); page.page.get_by_text('How it went').wait_for()
    page.shot('training-stopped')
    assert start.is_enabled() and stop.is_disabled()


def test_a_second_page_waits_for_its_turn_to_train(browser, demo, page):
    page.tab('Train live'); page.page.get_by_role('button', name='Start training').click(); page.page.get_by_text('Training: Stage-I').first.wait_for()
    other = Watched(browser).open(demo[1]); other.tab('Train live'); other.page.get_by_role('button', name='Start training').click()
    other.page.get_by_text('Another page on this machine is training').wait_for(); assert other.page.get_by_role('button', name='Start training').is_enabled()
    page.page.get_by_role('button', name='Stop training').click(); page.page.get_by_text('Stopped after').first.wait_for()
    other.fine(); other.context.close()


def test_closing_the_tab_ends_its_kernel(browser, demo):
    before = set(kernels(demo[0])); w = Watched(browser).open(demo[1])
    kernel, = set(kernels(demo[0])) - before
    w.page.close(run_before_unload=True)
    until(lambda: kernel not in kernels(demo[0])); w.fine(); w.context.close()


def test_a_browser_that_vanishes_frees_its_kernel(browser):
    port = free_port()
    with serving(f"from sdn_lite.classroom import serve; serve({port}, browser=False, forget=12)", port) as server:
        w, stays = Watched(browser).open(f'http://127.0.0.1:{port}/'), Watched(browser).open(f'http://127.0.0.1:{port}/')
        assert len(kernels(server)) == 2
        w.page.route('**/shutdown/**', lambda route: route.abort()); w.context.close()                          # says nothing when it goes
        until(lambda: len(kernels(server)) == 1); time.sleep(15); assert len(kernels(server)) == 1               # a page that is open keeps its kernel, idle or not
        stays.context.close()


@contextmanager
def in_lab(browser, notebook, folder):
    "A copy of `notebook`, opened in JupyterLab and run from top to bottom; gives the watched page."
    cells = json.loads(Path(notebook).read_text(encoding='utf-8'))
    cells['cells'] = [c for c in cells['cells'] if 'nbdev_export' not in ''.join(c['source'])]                  # the library stays as it is
    for c in cells['cells']:
        if c['cell_type'] == 'code': c |= dict(outputs=[], execution_count=None)
    folder.mkdir(parents=True, exist_ok=True); (folder/'lesson.ipynb').write_text(json.dumps(cells), encoding='utf-8')
    for name, settings in {'notebook-extension/tracker': dict(windowingMode='none'), 'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False)}.items():
        f = folder/f'settings/@jupyterlab/{name}.jupyterlab-settings'; f.parent.mkdir(parents=True, exist_ok=True); f.write_text(json.dumps(settings))
    port = free_port()
    options = ['--no-browser', '--allow-root', f'--port={port}', '--ip=127.0.0.1', '--IdentityProvider.token=', '--expose-app-in-browser', f'--ServerApp.root_dir={folder}', f'--LabApp.user_settings_dir={folder}/settings',
               f'--LabApp.workspaces_dir={folder}/workspaces', '--LabApp.extension_manager=readonly', '--ServerApp.port_retries=0']
    env = dict(JUPYTER_CONFIG_DIR=str(folder/'config'), MPLBACKEND='module://matplotlib_inline.backend_inline')
    with serving(f'import sys; from jupyterlab.labapp import main; sys.exit(main({options!r}))', port, env) as server:
        w = Watched(browser)
        try:
            w.page.goto(f'http://127.0.0.1:{port}/lab/tree/lesson.ipynb'); w.page.locator('.jp-Notebook .jp-Cell').first.wait_for()
            idle = "() => { const c = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel; return c && c.status === 'idle' }"
            w.page.wait_for_function(idle)
            w.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
            w.page.wait_for_function("() => [...document.querySelectorAll('.jp-CodeCell')].every(c => /\\[\\d+\\]|^$/.test(c.querySelector('.jp-InputPrompt').textContent.trim().replace('[ ]:', '')) && !c.querySelector('.jp-InputPrompt').textContent.includes('*'))", timeout=5*WAIT)
            w.page.wait_for_function(idle); w.page.wait_for_timeout(1000)
            bad = w.page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"], .jp-RenderedText[data-mime-type*=stderr]')
            assert not bad.count(), bad.first.inner_text()
            yield w
        finally: server.send_signal(signal.SIGINT); w.context.close()     # it asks back; `serving` sends the second one


def ours(errors):
    "Errors of the console that are not JupyterLab's own."
    return [e for e in errors if not re.search('jupytext|Failed to load resource', e)]


def test_the_page_works_in_jupyterlab_too(browser, tmp_path):
    with in_lab(browser, ROOT/'nbs/demo.ipynb', tmp_path) as w:
        w.page.locator('.sdn-page [role=tab]').first.wait_for(); w.page.locator('.sdn-page img:visible').first.wait_for(); w.shot('lab-page')
        w.tab('Train live'); w.page.get_by_role('button', name='Start training').wait_for()
        assert not ours(w.errors) and not w.abroad, (w.errors, w.abroad)


def test_every_widget_is_drawn_in_jupyterlab(browser, tmp_path):
    lesson = ROOT/'nbs/08_widgets.ipynb'
    if not lesson.is_file(): pytest.skip('nbs/08_widgets.ipynb is not there yet')
    with in_lab(browser, lesson, tmp_path) as w:
        shown = w.page.locator('.jp-OutputArea-output .jupyter-widgets.widget-vbox'); assert shown.count() >= 6
        assert not w.page.get_by_text('Error displaying widget').count() and not w.page.get_by_text('Loading widget').count()
        for k, output in enumerate(w.page.locator('.jp-Cell:has(.jp-OutputArea-output .jupyter-widgets)').all()): output.scroll_into_view_if_needed(); output.screenshot(path=SHOTS/f'lab-widget-{k}.png')
        assert not ours(w.errors) and not w.abroad, (w.errors, w.abroad)
