"The command `sdn_demo` and what it starts, without a browser."
import os, signal, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
DEMO = [sys.executable, '-c', 'from sdn_lite.cli import sdn_demo; sdn_demo()']
pytest.importorskip('voila')


def run(*options, **env):
    return subprocess.run([*DEMO, *map(str, options)], capture_output=True, text=True,
                          env=os.environ | env, timeout=300)


def test_the_packaged_page_is_the_notebook():
    assert (ROOT/'nbs/demo.ipynb').read_bytes() == (ROOT/'sdn_lite/assets/classroom/demo.ipynb').read_bytes(), (
        'copy nbs/demo.ipynb to sdn_lite/assets/classroom/')


def test_the_page_is_found_without_a_checkout(tmp_path):
    from sdn_lite import classroom
    assert classroom.page_notebook() == ROOT/'nbs/demo.ipynb'
    old = classroom.ASSETS; classroom.ASSETS = tmp_path/'lib/sdn_lite/assets/classroom'
    try: assert classroom.page_notebook() == classroom.ASSETS/'demo.ipynb'
    finally: classroom.ASSETS = old


def test_nothing_that_is_shown_comes_from_another_machine():
    for f in (ROOT/'sdn_lite/assets/classroom').rglob('*'):
        if f.suffix in ('.j2', '.html', '.json'): assert 'https://' not in f.read_text(encoding='utf-8'), f


@pytest.mark.parametrize('options', [['--port', 0], ['--port', 70000], ['--port', 'x'], ['--size', 3]])
def test_a_wrong_option_is_one_line(options):
    r = run(*options)
    assert r.returncode == 2 and r.stderr.count('\n') == 1 and 'sdn_demo --help' in r.stderr, r.stderr


@pytest.mark.parametrize('model, said', [
    ('nowhere', "model 'nowhere' is unknown"), ('{tmp}', 'is missing: a model folder holds')])
def test_a_model_that_cannot_be_shown_is_one_line(model, said, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as s: port = s.getsockname()[1]
    r = run('--no-browser', '--port', port, '--model', model.format(tmp=tmp_path))
    assert r.returncode == 2 and r.stderr.count('\n') == 1 and said in r.stderr and not r.stdout, r.stderr


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(('127.0.0.1', 0)) as s:
        r = run('--no-browser', '--port', s.getsockname()[1])
        assert (r.returncode == 2 and r.stderr.count('\n') == 1 and str(s.getsockname()[1]) in r.stderr
                and '--port' in r.stderr), r.stderr


def test_a_host_that_is_not_here_is_one_line_after_the_warning():
    r = run('--no-browser', '--host', '203.0.113.7')
    assert (r.returncode == 2 and r.stderr.count('\n') == 2 and 'warning' in r.stderr.splitlines()[0]
            and 'everyone who can reach this machine' in r.stderr), r.stderr


def test_without_voila_it_says_what_to_install(tmp_path):
    (tmp_path/'voila').mkdir(); (tmp_path/'voila/__init__.py').write_text('raise ImportError')
    r = run('--no-browser', PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert r.returncode == 2 and r.stderr.count('\n') == 1 and "pip install 'sdn_lite[lessons]'" in r.stderr, r.stderr


def below(pid):
    "Every process below `pid`."
    try: own = [int(p) for t in Path(f'/proc/{pid}/task').iterdir() for p in (t/'children').read_text().split()]
    except OSError: own = []
    return [q for p in own for q in (p, *below(p))]


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('end', [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_it_ends_and_leaves_no_process_and_no_file(end, tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as s: port = s.getsockname()[1]
    p = subprocess.Popen([*DEMO, '--no-browser', '--port', str(port)], stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, env=os.environ | dict(TMPDIR=str(tmp_path)))
    try:
        assert f'http://127.0.0.1:{port}/' in p.stdout.readline()
        for wait in range(100):                                        # the page, which starts a kernel
            try: page = urllib.request.urlopen(f'http://127.0.0.1:{port}/', timeout=60).read().decode(); break
            except urllib.error.URLError: time.sleep(.2)
        assert 'application/vnd.jupyter.widget-view+json' in page and 'https://cdn' not in page
        started = below(p.pid)
        assert len(started) == 3, started       # the nursery, a kernel, and what Jupyter takes for it
    finally: p.send_signal(end); said, _ = p.communicate(timeout=60)
    assert 'Traceback' not in said and (end == signal.SIGKILL or p.returncode in (0, 130)), (p.returncode, said)
    for wait in range(100):
        alive = [q for q in started if Path(f'/proc/{q}').exists()
                 and Path(f'/proc/{q}/stat').read_text().split(') ')[1][0] != 'Z']
        if not alive: break
        time.sleep(.2)
    assert not alive
    assert not [*tmp_path.iterdir()], 'temporary files were left'
