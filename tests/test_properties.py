"Properties that hold for anything one may pass in: searched by Hypothesis, the same cases every time."
import csv, io, json, os, random, resource, subprocess, sys, tempfile, time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
import pytest, torch
from hypothesis import HealthCheck, assume, example, given, settings, strategies as st
from PIL import Image
from sdn_lite.all import *
from sdn_lite import cli, stages
from sdn_lite.data import stable_hash
from sdn_lite.teacher import LEVELS, Teacher


# Derandomised: a test that passed here passes there. No deadline: how long it takes decides nothing.
def search(n):
    return settings(max_examples=n, derandomize=True, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))


# ---------------------------------------------------------------- mirror

blocks = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=5, max_size=5)

@search(40)
@given(blocks=blocks, sides=st.integers(1, 2), text_dim=st.integers(1, 9), fc_dim=st.integers(1, 9),
       batch=st.integers(1, 3), pool=st.sampled_from(['avg', 'max']),
       init=st.sampled_from(['mirror', 'scaled', 'paper']))
def test_any_teacher_has_a_student_with_its_names_shapes_and_counts(blocks, sides, text_dim, fc_dim, batch, pool, init):
    teacher = Teacher(blocks, pool); size = 32*sides
    student = mirror(teacher, text_dim, fc_dim, size, init)
    with torch.no_grad():
        theirs, ours, picture = (teacher(torch.rand(batch, 3, size, size)),
                                 student.taps(z := torch.randn(batch, text_dim)), student(z))
    assert ([(n, t.shape) for n, t in ours.items()] == [(n, t.shape) for n, t in theirs.items()]
            == [(t.name, (batch, t.channels, size//t.stride, size//t.stride)) for t in teacher.taps])
    assert torch.equal(picture, ours['image']) and picture.isfinite().all()
    # One convolution for each of the teacher's, with channels swapped: the same number of weights,
    # and biases for the other side
    assert len(student.convs) == len(teacher.convs) == sum(map(len, blocks))
    count = lambda net: sum(c.weight.numel() for c in net.convs.values())
    assert count(student) == count(teacher)
    widths = [3, *(w for b in blocks for w in b)]
    assert (sum(c.bias.numel() for c in student.convs.values()) == sum(widths[:-1])
            and sum(c.bias.numel() for c in teacher.convs.values()) == sum(widths[1:]))
    assert ([(s.undoes, s.makes) for s in student.plan]
            == [(b.name, a.name) for a, b in zip(teacher.taps, teacher.taps[1:])][::-1])
    again = Student(**json.loads(json.dumps(student.config)))
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in student.state_dict().items()}

@search(40)
@given(blocks=blocks, size=st.one_of(st.integers(-100, 300), st.floats(), st.none(), st.text(max_size=3)))
def test_size_that_five_halvings_do_not_divide_is_refused_with_the_next(blocks, size):
    assume(not (isinstance(size, int) and size >= 32 and size % 32 == 0))
    with pytest.raises(ValueError, match=r'is not divisible by 32.*use \d+'): mirror(Teacher(blocks), 4, 4, size)


# ---------------------------------------------------------------- LevelLoss

SMALL = Teacher([[2], [2], [3], [3], [2]])
weight = st.floats(0, 100)

def taps_from(seed):
    g = torch.Generator().manual_seed(seed)
    return {t.name: torch.randn(2, t.channels, max(1, 32//t.stride), max(1, 32//t.stride), generator=g)
            for t in SMALL.taps}

@search(60)
@given(seeds=st.tuples(st.integers(0, 999), st.integers(1000, 1999)),
       weights=st.fixed_dictionaries({}, optional=dict.fromkeys(LEVELS, weight)),
       scale=st.sampled_from(['raw', 'calibrated']), k=st.floats(.01, 100))
def test_loss_is_a_distance(seeds, weights, scale, k):
    real, drawn = map(taps_from, seeds)
    loss = LevelLoss(SMALL, weights, scale).calibrate([real])
    report = loss(real, drawn)
    values = [report.total, *report.levels.values(), *report.taps.values()]
    assert all(v.shape == () and v.isfinite() and v >= 0 for v in values)                          # never negative
    assert (all(v > 0 for v in report.taps.values()) and not any(v for v in loss(real, real).taps.values())
            and loss(real, real).total == 0)                                                   # 0 if and only if equal
    close = lambda a, b: torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-4, atol=1e-6)
    full = dict.fromkeys(LEVELS, 1.) | weights
    # the total is the weighted sum of the levels …
    close(report.total, torch.as_tensor(sum(full[l]*v for l, v in report.levels.items())))
    # … and a level the sum of its taps
    for l in LEVELS: close(report.levels[l], sum(v for t, v in report.taps.items() if loss.taps[t] == l))
    # k times as far away is k times the loss: of the picture, and of everything
    far = loss(real, {t: real[t] + k*(drawn[t] - real[t]) for t in real})
    for t in real: torch.testing.assert_close(far.taps[t], k*report.taps[t], rtol=1e-3, atol=1e-5)
    more = LevelLoss(SMALL, {l: k*w for l, w in full.items()}, scale).calibrate([real])(real, drawn)
    torch.testing.assert_close(more.total, k*report.total, rtol=1e-4, atol=1e-5)

@search(30)
@given(seed=st.integers(0, 99), tap=st.sampled_from([t.name for t in SMALL.taps]), side=st.integers(0, 1),
       what=st.sampled_from(['gone', 'shape']))
def test_taps_that_do_not_fit_are_named(seed, tap, side, what):
    both = [taps_from(seed), taps_from(seed)]
    if what == 'gone': del both[side][tap]
    else: both[side][tap] = both[side][tap][:1]
    with pytest.raises(ValueError, match=rf"tap '{tap}'"): LevelLoss(SMALL, scale='raw')(*both)


# ---------------------------------------------------------------- a folder of pictures

names = (st.text(st.characters(blacklist_categories=['Cs', 'Cc'], blacklist_characters='/\\:*?"<>|'),
                 min_size=1, max_size=12)
         .map(str.strip).filter(lambda n: n.strip('.') and len(n.encode()) < 200).map(lambda n: n + '.png'))
texts = st.text(st.characters(blacklist_categories=['Cs']), max_size=20)

@search(60)
@given(rows=st.lists(st.tuples(st.integers(0, 3), texts), max_size=8),
       files=st.lists(names, min_size=4, max_size=4, unique_by=lambda n: n.casefold()),
       gone=st.sets(st.integers(0, 3), max_size=1), broken=st.sets(st.integers(0, 3), max_size=1),
       kind=st.sampled_from(['csv', 'jsonl']), split=st.sampled_from([None, 'train', 'valid']))
def test_any_table_is_read_rightly_or_refused_by_row(rows, files, gone, broken, kind, split):
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        for k, n in enumerate(files):
            if k in broken: (folder/n).write_bytes(b'no picture')
            elif k not in gone: Image.new('RGB', (40, 33), (60*k, 0, 0)).save(folder/n)
        table = folder/f'metadata.{kind}'
        if kind == 'csv':
            with open(table, 'w', newline='', encoding='utf-8') as f:
                csv.writer(f).writerows([('file_name', 'text'), *((files[k], t) for k, t in rows)])
        else:
            table.write_text(''.join(json.dumps(dict(file_name=files[k], text=t)) + '\n' for k, t in rows),
                             encoding='utf-8')
        rows = [(k, t.strip()) for k, t in rows]
        mine = [(k, t) for k, t in rows if split is None or (stable_hash(files[k].strip()) < .1) == (split == 'valid')]
        wrong = (not rows or any(not t for _, t in rows) or any(k in gone | broken for k, _ in mine)
                 or len(set(mine)) < len(mine))
        if wrong:
            with pytest.raises((ValueError, FileNotFoundError), match=r'metadata\.'): load_folder(folder, 32, split)
            return
        try: ds = load_folder(folder, 32, split)
        except ValueError as e:                      # a null byte or a lone carriage return is no CSV
            assert kind == 'csv' and str(e).startswith(str(table)) and any(c in t for _, t in rows for c in '\0\r'), e
            return
        order = list(dict.fromkeys(k for k, _ in mine))
        assert ds.ids == [files[k] for k in order]
        for i, k in enumerate(order):
            got, put = ds.captions(i), [t for j, t in mine if j == k]
            assert (got == put
                    or kind == 'csv' and [g.replace('\r', '\n') for g in got] == [p.replace('\r', '\n') for p in put])
            assert (ds.read(i) - torch.tensor([60*k, 0, 0], dtype=torch.uint8)[:, None, None]).eq(0).all()

@search(150)
@given(content=st.one_of(
           st.binary(max_size=200),
           st.text(max_size=200).map(lambda s: ('file_name,text\n' + s).encode('utf-8', 'surrogatepass')),
           st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5),
                        lambda c: st.lists(c, max_size=3)
                                  | st.dictionaries(st.sampled_from(['file_name', 'text', 'x']), c, max_size=3),
                        max_leaves=8).map(lambda v: json.dumps(v).encode())),
       kind=st.sampled_from(['csv', 'jsonl', 'parquet']))
def test_any_bytes_as_a_table_are_read_or_refused(content, kind):
    with tempfile.TemporaryDirectory() as tmp:
        (Path(tmp)/f'metadata.{kind}').write_bytes(content); Image.new('RGB', (32, 32)).save(Path(tmp)/'a.png')
        try: ds = load_folder(tmp, 32); [ds[i] for i in range(len(ds))]
        except (ValueError, FileNotFoundError) as e: assert str(e)

ODD = {'deep': b'{"file_name": "a.png", "text": ' + b'['*100_000,
       'null': b'{"file_name": "a\\u0000.png", "text": "x"}',
       'long name': b'{"file_name": "' + b'a'*5000 + b'.png", "text": "x"}',
       'half a pair in the name': b'{"file_name": "\\ud800.png", "text": "x"}',
       'half a pair in the text': b'{"file_name": "a.png", "text": "\\ud800"}',
       'huge number': b'{"file_name": "a.png", "text": ' + b'9'*5000 + b'}'}

@pytest.mark.parametrize('name', ODD)
def test_odd_row_is_named(tmp_path, name):
    (tmp_path/'metadata.jsonl').write_bytes(ODD[name]); Image.new('RGB', (32, 32)).save(tmp_path/'a.png')
    with pytest.raises((ValueError, FileNotFoundError), match=r'metadata\.jsonl, row 1') as e: load_folder(tmp_path, 32)
    assert len(str(e.value)) < 1000


# ---------------------------------------------------------------- the command line

class Started(ValueError): "The command line was understood, and the work would begin."

words = st.one_of(
    st.sampled_from([
        '--resume', '--quiet', '--data', '--out', '--size', '--epochs', '--levels', 'low=1', 'high=nan', 'low=', '=',
        '--lr', '--batch', '--precision', '--plain', '--recall', '--text', '--teacher-weights', '--help', '-h', '--',
        '-', '--version', '--model', '--zoom', 'emoji-small', 'nowhere', '--port', '--host', '--no-browser',
        '0', '1', '-1', '32', '64', '1e309', 'nan', '1_0', '٣', '', ' ', 'a red apple', '%s', '\x00', '🍎', '..', '/',
        '9'*5000]),
    st.text(max_size=8), st.integers().map(str), st.floats().map(str))

@pytest.fixture(scope='module')
def nothing_starts(tmp_path_factory):
    "Training, drawing and serving are cut off behind the reading of arguments, and the working folder is an empty one."
    from sdn_lite import classroom, pipeline
    with pytest.MonkeyPatch.context() as m:
        def distill(config, **more):
            if not isinstance(config, DistillConfig): Run(config)
            raise Started('started')
        m.setattr(stages, 'distill', distill)
        m.setattr(classroom, 'serve', lambda *a: None)
        m.setattr(pipeline.TextToImage, 'from_pretrained', classmethod(
            lambda cls, name: (lambda captions: [Image.new('RGB', (4, 4)) for _ in captions])))
        folder = tmp_path_factory.mktemp('empty'); m.chdir(folder)
        yield folder

@search(400)
@given(command=st.sampled_from(['sdn_train', 'sdn_generate', 'sdn_demo']), words=st.lists(words, max_size=6))
@example('sdn_train', ['--size', '9'*5000])
@example('sdn_train', ['--data', '\x00'])
@example('sdn_train', ['--resume', '\x00'])
@example('sdn_generate', ['x', '--out', '\x00'])
@example('sdn_generate', ['x', 'y', '--out', '\x00'])
@example('sdn_generate', ['x', '--out', 'x.nothing'])
@example('sdn_generate', ['x', '--out', '/'])
@example('sdn_generate', ['x', '--out', 'x'*5000])
def test_any_arguments_end_with_0_or_2_and_never_with_a_traceback(nothing_starts, command, words):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end: getattr(cli, command)(words)
    assert end.value.code in (0, 2), (end.value.code, err.getvalue())
    if end.value.code == 2:
        assert err.getvalue().startswith(f'{command}: ') and err.getvalue().count('\n') == 1, err.getvalue()
    else: assert 'sdn_demo: warning' in err.getvalue() or not err.getvalue()

@pytest.mark.parametrize('command', [
    ['sdn_train', '--resume', '\udcff'], ['sdn_generate', ''.join(map(chr, range(1, 300))), '--out', '/proc/x.png'],
    ['sdn_generate', 'x', '--model', '..'],
], ids=['no UTF-8', 'every character', 'no model'])
def test_odd_arguments_in_a_process_of_its_own(command, tmp_path):
    r = subprocess.run([sys.executable, '-c', f'from sdn_lite.cli import {command[0]}; {command[0]}()', *command[1:]],
                       cwd=tmp_path, capture_output=True, encoding='utf-8', errors='replace')
    assert r.returncode in (0, 2) and 'Traceback' not in r.stderr, r.stderr


# ---------------------------------------------------------------- from_pretrained and damaged files

HUGE = [0, -1, 1, 2**31, 2**63, 2**64, 10**30, -10**18, 32*10**6, 1e308, float('inf'), float('nan'), True, False, None,
        '', 'x', '9'*1000, [], {}, [[]], [[0]], [[10**12]]*5, [[-1]]*5, ['a'], {'a': 1}, '/etc/passwd', '..',
        '\x00', '\ud800', 'minilm', 'sentence', 'char-cnn-rnn', 'precomputed', 64, 96, .5]

def places(v, at=()):
    "Every path in a JSON value."
    yield at
    for k, x in v.items() if isinstance(v, dict) else enumerate(v) if isinstance(v, list) else ():
        yield from places(x, (*at, k))

def changed(v, at, new):
    "`v` with `new` at one place, or without it."
    if not at: return new
    v = dict(v) if isinstance(v, dict) else list(v)
    if len(at) == 1 and new is ...: del v[at[0]]
    else: v[at[0]] = changed(v[at[0]], at[1:], new)
    return v

def flipped(b, rnd, most=8):
    b = bytearray(b)
    for _ in range(rnd.randint(1, most)): b[rnd.randrange(len(b))] ^= 1 << rnd.randrange(8)
    return bytes(b)

def deep(rnd):
    n = rnd.choice([100, 10_000, 1_000_000]); a, z = rnd.choice(['[]', ('{"a":', '}')])
    return (a*n + '1' + z*n).encode()

def mutant(config, weights, rnd):
    "One of the two files, changed in one of many ways; and how."
    how = rnd.choice(['value', 'value', 'value', 'gone', 'nested', 'config bits', 'config end', 'config deep',
                      'header bits', 'header value', 'header value', 'header length', 'weights end', 'weights bits',
                      'swapped'])
    value, n = json.loads(config), int.from_bytes(weights[:8], 'little')
    if how in ('value', 'gone', 'nested'):
        at = rnd.choice([p for p in places(value) if p])
        new = ... if how == 'gone' else rnd.choice(HUGE) if how == 'value' else json.loads('['*50 + ']'*50)
        config = json.dumps(changed(value, at, new)).encode('utf-8', 'surrogatepass')
    elif how == 'config bits': config = flipped(config, rnd)
    elif how == 'config end': config = config[:rnd.randrange(len(config))]
    elif how == 'config deep':
        config = rnd.choice([deep(rnd), config.replace(b'"text"', b'"text": ' + deep(rnd) + b', "other"')])
    elif how == 'header bits': weights = weights[:8] + flipped(weights[8:8 + n], rnd) + weights[8 + n:]
    elif how == 'header value':
        head = json.loads(weights[8:8 + n]); at = rnd.choice([p for p in places(head) if p])
        head = (json.dumps(changed(head, at, rnd.choice([*HUGE, 'I64', 'BOOL', 'F8_E5M2', 'C64', 'U8', ...])))
                .encode('utf-8', 'surrogatepass'))
        weights = len(head).to_bytes(8, 'little') + head + weights[8 + n:]
    elif how == 'header length':
        weights = (rnd.choice([0, 1, n - 1, n + 1, 2**20, 2**40, 2**63, 2**64 - 1, len(weights)]).to_bytes(8, 'little')
                   + weights[8:])
    elif how == 'weights end': weights = weights[:rnd.randrange(len(weights))]
    elif how == 'weights bits': weights = flipped(weights, rnd, 1000)
    elif how == 'swapped': config, weights = weights[:2000], config
    return how, config, weights

def peak():
    "The most memory that this program has used, in MB. Linux counts the program that started it into `ru_maxrss`."
    status = Path('/proc/self/status')
    if status.exists():
        return int(next(l for l in status.read_text().splitlines() if l.startswith('VmHWM')).split()[1])/1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024

def fuzz(folder, first, count, seconds):
    """Load and draw mutants until `count` or `seconds` are reached.
    Prints what came out; any other error ends this process."""
    folder, sources = Path(folder), [Path(p) for p in json.loads((Path(folder)/'sources.json').read_text())]
    bytes_of = [((p/'config.json').read_bytes(), (p/'model.safetensors').read_bytes()) for p in sources]
    bad = folder/'bad'; bad.mkdir(); found, began, n = {}, time.monotonic(), first
    # no code run: nothing is started, compiled from the files or fetched
    def guard(event, args):
        if event in ('subprocess.Popen', 'os.system', 'os.exec', 'os.fork', 'socket.connect', 'pickle.find_class'):
            raise SystemExit(f'{event} {args}')
    # what loads libraries is done before the guard stands
    for s in sources: TextToImage.from_pretrained(s)('warm')
    base = peak()
    sys.addaudithook(guard)
    while n < first + count and time.monotonic() - began < seconds:
        rnd = random.Random(n); how, config, weights = mutant(*bytes_of[n % len(sources)], rnd); n += 1
        (bad/'config.json').write_bytes(config); (bad/'model.safetensors').write_bytes(weights)
        try: TextToImage.from_pretrained(bad)('a red apple'); end = 'drawn'
        except (ValueError, FileNotFoundError, ImportError) as e:
            end = type(e).__name__; assert str(e) and len(str(e)) < 2000, (n, how, str(e)[:300])
        except BaseException: print('mutant', n - 1, how, flush=True); raise
        found[f'{how}: {end}'] = found.get(f'{how}: {end}', 0) + 1
    print(json.dumps(dict(mutants=n - first, grown=round(peak() - base), found=dict(sorted(found.items())))))

def fuzzed(folder, finished, first, count, seconds=1e9):
    (folder/'sources.json').write_text(json.dumps([str(finished.folder/'model'), str(ASSETS/'emoji-small')]))
    code = f'import test_properties; test_properties.fuzz({str(folder)!r}, {first}, {count}, {seconds})'
    r = subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parent, capture_output=True, text=True,
                       env=os.environ | dict(PYTHONPATH=os.pathsep.join(p for p in sys.path if p)))
    assert r.returncode == 0, (r.stdout[-500:], r.stderr[-3000:])
    result = json.loads(r.stdout.splitlines()[-1]); print(json.dumps(result, indent=1))
    assert result['grown'] < 300, result             # MB, at the highest
    return result

def test_damaged_models_are_refused_or_drawn(finished, tmp_path):
    found = fuzzed(tmp_path, finished, 0, 400)
    assert found['mutants'] == 400 and {k.split(': ')[1] for k in found['found']} >= {'drawn', 'ValueError'}

@pytest.mark.slow
def test_damaged_models_for_two_minutes(finished, tmp_path):
    assert fuzzed(tmp_path, finished, 1_000_000, 10**9, 120)['mutants'] > 400
