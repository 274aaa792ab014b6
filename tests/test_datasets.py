"Birds, flowers and the authors' pickles in their real layouts; a server on this computer instead of the network."
import builtins, errno, hashlib, http.server, io, os, pickle, re, socket, stat, struct, subprocess, sys, \
    tarfile, threading, zipfile
from pathlib import Path
import numpy as np, pytest, torch
from huggingface_hub import file_download
from PIL import Image
from torch.utils.data import DataLoader
from sdn_lite import datasets
from sdn_lite.datasets import download, load_cub, load_flowers, load_stackgan, restricted_load, square_box, unpack
from conftest import tree

BODY = bytes(range(256))*500
md5 = lambda data: hashlib.md5(data).hexdigest()

# ---------------------------------------------------------------- a server that misbehaves on request

class Server(http.server.ThreadingHTTPServer):
    """Serves `body` under every name but /missing.
    `ranges`: knows Range; `cuts`: break off after so many bytes, one number a request."""
    daemon_threads = True
    def __init__(self):
        self.body, self.ranges, self.cuts, self.asked, self.codings = BODY, True, [], [], []
        super().__init__(('127.0.0.1', 0), Handler)
    def url(self, name='birds.tgz'): return f'http://127.0.0.1:{self.server_port}/files/{name}'

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args): pass
    def do_GET(self):
        s, asked = self.server, self.headers.get('Range')
        s.asked.append(asked); s.codings.append(self.headers.get('Accept-Encoding'))
        if 'missing' in self.path: return self.send_error(404)
        start = int(re.match(r'bytes=(\d+)-', asked)[1]) if asked and s.ranges else 0
        if start >= len(s.body) > 0:
            self.send_response(416); self.send_header('Content-Range', f'bytes */{len(s.body)}')
            self.send_header('Content-Length', '0'); return self.end_headers()
        self.send_response(206 if start else 200)
        if start: self.send_header('Content-Range', f'bytes {start}-{len(s.body) - 1}/{len(s.body)}')
        self.send_header('Content-Length', str(len(s.body) - start)); self.end_headers()
        self.wfile.write(s.body[start:][:s.cuts.pop(0) if s.cuts else None])
        self.close_connection = True

@pytest.fixture
def server(monkeypatch):
    # between two tries; nothing here needs the pause
    monkeypatch.setattr(file_download.time, 'sleep', lambda seconds: None)
    s = Server(); threading.Thread(target=s.serve_forever, args=(.01,), daemon=True).start()
    yield s
    s.shutdown(); s.server_close()

def test_download_keeps_the_bytes_and_asks_only_once(server, tmp_path):
    file = download(server.url(), tmp_path/'new', md5(BODY))
    assert file == tmp_path/'new/birds.tgz' and tree(tmp_path/'new') == {'birds.tgz': BODY}
    assert (download(server.url(), tmp_path/'new', md5(BODY)) == file
            and server.asked == [None] and server.codings == ['identity'])

def test_download_goes_on_where_it_stopped(server, tmp_path):
    (tmp_path/'birds.tgz.part').write_bytes(BODY[:70_000])
    download(server.url(), tmp_path, md5(BODY))
    assert tree(tmp_path) == {'birds.tgz': BODY} and server.asked == ['bytes=70000-']

def test_download_starts_anew_if_the_server_knows_no_range(server, tmp_path):
    server.ranges = False; (tmp_path/'birds.tgz.part').write_bytes(BODY[:70_000])
    download(server.url(), tmp_path, md5(BODY))
    assert tree(tmp_path) == {'birds.tgz': BODY} and server.asked == ['bytes=70000-']

def test_download_survives_a_broken_line(server, tmp_path):
    server.cuts = [50_000, 20_000]
    download(server.url(), tmp_path, md5(BODY))
    assert tree(tmp_path) == {'birds.tgz': BODY} and server.asked[0] is None and len(server.asked) == 3

def test_what_came_stays_when_the_line_is_gone(server, tmp_path, monkeypatch):
    def cut(url, f, **kwargs): f.write(BODY[:1000]); raise TimeoutError('timed out')
    monkeypatch.setattr('huggingface_hub.file_download.http_get', cut)
    with pytest.raises(ConnectionError, match=r'birds\.tgz could not be fetched \(timed out\): run this again.*'
                                              r'by hand.*put it at .*birds\.tgz$'):
        download(server.url(), tmp_path, md5(BODY))
    assert tree(tmp_path) == {'birds.tgz.part': BODY[:1000]}
    monkeypatch.undo()
    download(server.url(), tmp_path, md5(BODY))
    assert tree(tmp_path) == {'birds.tgz': BODY} and server.asked == ['bytes=1000-']

@pytest.mark.parametrize('sum', [md5(BODY), None])
def test_a_part_that_is_whole_becomes_the_file(server, tmp_path, sum):
    (tmp_path/'birds.tgz.part').write_bytes(BODY)
    download(server.url(), tmp_path, sum)
    assert tree(tmp_path) == {'birds.tgz': BODY} and server.asked == ([] if sum else [f'bytes={len(BODY)}-'])

def test_a_part_that_is_too_long_is_not_the_file(server, tmp_path):
    (tmp_path/'birds.tgz.part').write_bytes(BODY + b'more')
    with pytest.raises(ConnectionError, match='416'): download(server.url(), tmp_path)
    assert tree(tmp_path) == {'birds.tgz.part': BODY + b'more'}
    with pytest.raises(ValueError, match=r'birds\.tgz\.wrong'): download(server.url(), tmp_path, md5(BODY))
    assert tree(tmp_path) == {'birds.tgz.wrong': BODY + b'more'}

def test_wrong_content_is_kept_aside_and_named(server, tmp_path):
    (tmp_path/'birds.tgz.wrong').write_bytes(b'of an earlier day'); server.body = b'<html>moved</html>'
    with pytest.raises(ValueError, match=f'{md5(server.body)} instead of {md5(BODY)}: '
                                         'it is kept as .*birds.tgz.wrong1'):
        download(server.url(), tmp_path, md5(BODY))
    assert tree(tmp_path) == {'birds.tgz.wrong': b'of an earlier day', 'birds.tgz.wrong1': server.body}

def test_a_file_that_is_there_is_never_touched(server, tmp_path):
    (tmp_path/'birds.tgz').write_bytes(b'mine')
    with pytest.raises(ValueError, match=fr"birds\.tgz has the checksum {md5(b'mine')} instead of {md5(BODY)}: "
                                         r"move it away"):
        download(server.url(), tmp_path, md5(BODY))
    assert tree(tmp_path) == {'birds.tgz': b'mine'} and server.asked == []

def test_errors_of_the_network_are_one_sentence(server, tmp_path):
    # free again at once: nobody listens there
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); closed = s.getsockname()[1]
    for url in (server.url('missing.tgz'), f'http://127.0.0.1:{closed}/x.tgz', 'http://no-such-host.invalid/x.tgz'):
        with pytest.raises(ConnectionError) as e: download(url, tmp_path)
        text = str(e.value)
        assert '\n' not in text and url in text and f'by hand and put it at {tmp_path/url.rpartition("/")[2]}' in text
    assert tree(tmp_path) == {}

def test_full_disk_is_one_line_and_keeps_what_came(server, tmp_path, monkeypatch):
    def full(url, f, **kwargs): f.write(b'abc'); raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr('huggingface_hub.file_download.http_get', full)
    with pytest.raises(OSError, match=r'no room on the disk for .*birds\.tgz: free some, then run this again$') as e:
        download(server.url(), tmp_path)
    assert e.value.errno == errno.ENOSPC and tree(tmp_path) == {'birds.tgz.part': b'abc'}

def test_an_address_without_a_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="url='http://x.invalid/' names no file"):
        download('http://x.invalid/', tmp_path)

# ---------------------------------------------------------------- archives

def make_tar(path, members, mode='w:gz'):
    with tarfile.open(path, mode) as t:
        for name, data in members:
            m = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if data is not None: m.size = len(data)
            t.addfile(m, io.BytesIO(data or b''))
    return path

def make_zip(path, members):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, data in members: z.writestr(name, data)
    return path

def tar_link(name, target, kind): m = tarfile.TarInfo(name); m.type, m.linkname = kind, target; return m
def zip_link(name):
    m = zipfile.ZipInfo(name); m.create_system, m.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return m

@pytest.fixture(params=['filter', 'by hand'])
def tar_filters(request, monkeypatch):
    "Python before 3.10.12 and 3.11.4 has no filters for tar files."
    if request.param == 'by hand': monkeypatch.delattr(tarfile, 'data_filter', raising=False)
by_filter_or_hand = pytest.mark.usefixtures('tar_filters')

FILES = [('a/one.txt', b'1'), ('a/b/two.txt', b'2'*100_000), ('top.txt', b'3')]

@pytest.mark.parametrize('name, mode', [
    ('x.tar', 'w'), ('x.tgz', 'w:gz'), ('x.tar.bz2', 'w:bz2'), ('x.tar.xz', 'w:xz'), ('x.zip', None)])
@by_filter_or_hand
def test_unpack_gives_the_files_and_nothing_else(tmp_path, name, mode):
    archive = make_tar(tmp_path/name, FILES, mode) if mode else make_zip(tmp_path/name, FILES)
    # the second time all is there already
    for _ in range(2): assert unpack(archive, tmp_path/'out') == tmp_path/'out'
    assert tree(tmp_path/'out') == dict(FILES) and {p.name for p in (tmp_path/'out').iterdir()} == {'a', 'top.txt'}

BAD = ['../out.txt', 'a/../../out.txt', 'a/../b.txt', '/tmp/out.txt',
       '..\\out.txt', 'C:\\out.txt', 'C:/out.txt', 'C:out.txt', '\\\\host\\share\\out.txt']
@pytest.mark.parametrize('make', [make_tar, make_zip])
@pytest.mark.parametrize('name', BAD)
@by_filter_or_hand
def test_a_name_that_leads_out_is_refused(tmp_path, make, name):
    (tmp_path/'in').mkdir(); (tmp_path/'in/mine.txt').write_text('mine')
    archive = make(tmp_path/'x.bin', [('a/one.txt', b'1'), (name, b'out')])
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r'x\.bin is refused: .*nothing of it was unpacked') as e:
        unpack(archive, tmp_path/'in')
    assert repr(name) in str(e.value) or repr(name.replace('\\', '/')) in str(e.value)
    assert tree(tmp_path) == before and [p.name for p in (tmp_path/'in').iterdir()] == ['mine.txt']

@pytest.mark.parametrize('member', [
    tar_link('a/link', '/etc', tarfile.SYMTYPE), tar_link('a/link', 'one.txt', tarfile.SYMTYPE),
    tar_link('a/link', 'a/one.txt', tarfile.LNKTYPE), tar_link('a/link', '', tarfile.FIFOTYPE),
    tar_link('a/link', '', tarfile.CHRTYPE),
], ids=lambda m: f'{m.type} {m.linkname}')
@by_filter_or_hand
def test_links_and_devices_in_a_tar_are_refused(tmp_path, member):
    archive = make_tar(tmp_path/'x.tgz', [('a/one.txt', b'1'), (member, None), ('a/link/two.txt', b'2')])
    with pytest.raises(ValueError, match=r"x\.tgz is refused: 'a/link'"): unpack(archive, tmp_path/'in')
    assert list((tmp_path/'in').iterdir()) == []

def test_links_in_a_zip_are_refused(tmp_path):
    archive = make_zip(tmp_path/'x.zip', [('a/one.txt', b'1'), (zip_link('a/link'), b'/etc')])
    with pytest.raises(ValueError, match=r"x\.zip is refused: 'a/link'"): unpack(archive, tmp_path/'in')
    assert list((tmp_path/'in').iterdir()) == []

def damaged(data, how):
    return {'cut': data[:len(data)//2], 'short': data[:-6], 'empty': b'', 'text': b'<html>moved</html>',
            'bit': data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]}[how]

@pytest.mark.parametrize('kind, how', [
    (k, h) for k in ('tgz', 'tar', 'zip', 'xz') for h in ('cut', 'short', 'empty', 'text', 'bit')
    # these only touch the padding, or a table that is found again
    if (k, h) not in {('tar', 'short'), ('tar', 'bit'), ('zip', 'bit')}])
@by_filter_or_hand
def test_a_damaged_archive_is_one_sentence_and_leaves_nothing(tmp_path, kind, how):
    noise = [('a/one.txt', np.random.default_rng(0).bytes(50_000)), ('two.txt', b'2'*9)]
    archive = (make_zip(tmp_path/'x', noise) if kind == 'zip'
               else make_tar(tmp_path/'x', noise, {'tgz': 'w:gz', 'tar': 'w', 'xz': 'w:xz'}[kind]))
    archive.write_bytes(damaged(archive.read_bytes(), how))
    with pytest.raises(ValueError, match=r'x is damaged or no archive \(.+\): get it again$') as e:
        unpack(archive, tmp_path/'in')
    assert '\n' not in str(e.value) and list((tmp_path/'in').iterdir()) == []

def test_a_file_with_other_content_is_not_overwritten(tmp_path):
    (tmp_path/'in/a').mkdir(parents=True); (tmp_path/'in/a/one.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r'one\.txt is there already and differs.*move it away'):
        unpack(make_tar(tmp_path/'x.tgz', FILES), tmp_path/'in')
    assert tree(tmp_path/'in') == {'a/one.txt': b'mine'}
    for made in ((tmp_path/'in/a/one.txt').unlink, (tmp_path/'in/a/one.txt').mkdir): made()
    with pytest.raises(FileExistsError): unpack(tmp_path/'x.tgz', tmp_path/'in')                # a folder of that name

def test_new_files_join_what_is_there(tmp_path):
    (tmp_path/'in/a').mkdir(parents=True); (tmp_path/'in/a/mine.txt').write_text('mine')
    unpack(make_tar(tmp_path/'x.tgz', FILES), tmp_path/'in')
    assert tree(tmp_path/'in') == dict(FILES) | {'a/mine.txt': b'mine'}

@pytest.mark.parametrize('error, seen', [
    (KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, 'No space left on device'), OSError),
    (PermissionError(errno.EACCES, 'Permission denied'), PermissionError)])
def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, error, seen):
    whole = tarfile.TarFile.extractall
    def stop(self, *args, **kwargs): whole(self, *args, **kwargs); raise error
    monkeypatch.setattr(tarfile.TarFile, 'extractall', stop)
    with pytest.raises(seen) as e: unpack(make_tar(tmp_path/'x.tgz', FILES), tmp_path/'in')
    assert (list((tmp_path/'in').iterdir()) == []
            and (seen is not OSError or re.search(r'no room on the disk for the files of .*x\.tgz', str(e.value))))

def test_a_tar_with_a_zip_at_its_end_is_a_tar(tmp_path):
    inner = make_zip(tmp_path/'in.zip', FILES).read_bytes()
    unpack(make_tar(tmp_path/'x.tar', [('in.zip', inner)], 'w'), tmp_path/'out')
    assert tree(tmp_path/'out') == {'in.zip': inner}

@by_filter_or_hand
def test_no_archive_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match='is not a file: give a .tar.gz'):
        unpack(tmp_path/'x.tgz', tmp_path/'in')
    assert not (tmp_path/'in').exists()

# ---------------------------------------------------------------- birds

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
BIRDS = [('001.Red_bird', 'Red_1', RED, (10, 20, 60, 30)), ('001.Red_bird', 'Red_2', RED, (100, 60, 20, 40)),
         ('002.Green_bird', 'Green_3', GREEN, (150, 10, 30, 30)), ('003.Blue_bird', 'Blue_4', BLUE, (0, 0, 150, 120))]

def jpeg(colour, box, size=(200, 140)):
    "A grey picture with one coloured box (x, y, width, height)."
    img = Image.new('RGB', size, GREY); x, y, w, h = box; img.paste(colour, (x, y, x + w, y + h))
    data = io.BytesIO(); img.save(data, 'JPEG', quality=98, subsampling=0); return data.getvalue()

def cub_files():
    root = 'CUB_200_2011'
    return {f'{root}/images.txt': ''.join(f'{i} {k}/{n}.jpg\n' for i, (k, n, _, _) in enumerate(BIRDS, 1)).encode(),
            f'{root}/classes.txt': b'1 001.Red_bird\n2 002.Green_bird\n3 003.Blue_bird\n',
            f'{root}/bounding_boxes.txt': ''.join(f'{i} {x}.0 {y}.0 {w}.0 {h}.0\n' for i, (_, _, _, (x, y, w, h))
                                                  in enumerate(BIRDS, 1)).encode(),
            **{f'{root}/images/{k}/{n}.jpg': jpeg(c, b) for k, n, c, b in BIRDS}}

def caption_files(entries, train, test):
    return {**{f'text_c10/{k}/{n}.txt': f'first of {n}\nsecond of {n}\n'.encode() for k, n in entries},
            'trainvalclasses.txt': '\n'.join(train).encode() + b'\n',
            'testclasses.txt': '\n'.join(test).encode() + b'\n'}

CUB_TEXT = caption_files([(k, n) for k, n, _, _ in BIRDS], ['001.Red_bird', '003.Blue_bird'], ['002.Green_bird'])

def lay(folder, files):
    for name, data in files.items():
        (folder/name).parent.mkdir(parents=True, exist_ok=True); (folder/name).write_bytes(data)
    return folder

@pytest.fixture
def cub(tmp_path):
    lay(tmp_path/'birds', cub_files()); lay(tmp_path/'birds/cvpr2016_cub', CUB_TEXT)
    return tmp_path/'birds'

def test_cub_gives_ids_captions_and_the_split_by_class(cub):
    train, test, whole = load_cub(cub), load_cub(cub, 'test'), load_cub(cub, None)
    assert (train.ids == ['001.Red_bird/Red_1', '001.Red_bird/Red_2', '003.Blue_bird/Blue_4']
            and test.ids == ['002.Green_bird/Green_3'])
    assert sorted(train.ids + test.ids) == sorted(whole.ids)
    assert train.captions(1) == ['first of Red_2', 'second of Red_2'] and train[2]['caption'] == 'first of Blue_4'
    assert repr(test) == 'cub/test: 1 pictures of 64 px, 2 captions'

def test_cub_takes_the_folder_itself_and_captions_elsewhere(cub, tmp_path):
    # captions in cvpr2016_cub beside it
    assert load_cub(cub/'CUB_200_2011').ids == load_cub(cub).ids
    (cub/'cvpr2016_cub').rename(tmp_path/'words')
    for given in (tmp_path/'words', str(tmp_path/'words/text_c10')):
        assert load_cub(cub, captions=given).ids == load_cub(cub/'CUB_200_2011', captions=given).ids

@pytest.mark.parametrize('place', ['birds', 'birds/birds', 'birds/CUB_200_2011', '.', 'cvpr2016_cub'])
def test_cub_finds_captions_in_and_beside_the_folder(cub, tmp_path, place):
    (cub/'cvpr2016_cub').rename(tmp_path/'away'); lay(tmp_path/place, CUB_TEXT)
    assert len(load_cub(cub, None) if place != 'birds/CUB_200_2011' else load_cub(cub/'CUB_200_2011', None)) == 4

def coloured(picture, colour):
    "How many rows and columns of a picture show the box."
    near = (picture - torch.tensor(colour).view(3, 1, 1)/255).abs().amax(0) < .25
    return near.any(1).sum().item(), near.any(0).sum().item()

@pytest.mark.parametrize('size', [64, 96])
def test_crop_lets_the_bird_fill_three_quarters_of_the_side(cub, size):
    ds, whole = load_cub(cub, None, size), load_cub(cub, None, size, crop=False)
    for i, (_, _, colour, (x, y, w, h)) in enumerate(BIRDS[:3]):
        side = max(w, h)/.75
        rows, columns = coloured(ds[i]['image'], colour)
        assert (abs(rows - size*h/side) <= 2 and abs(columns - size*w/side) <= 2
                and max(rows, columns) == pytest.approx(.75*size, abs=2))
    assert coloured(whole[1]['image'], RED) == pytest.approx((size*40/140, size*20/140), abs=2)
    # 150 wide, but the square can't be larger than 140
    assert coloured(ds[3]['image'], BLUE)[1] == size

@pytest.mark.parametrize('box, size, square', [
    ((40, 40, 30, 15), (200, 100), (35, 28, 75, 68)),       # in the middle: 40 wide, round (55, 47.5)
    ((0, 0, 30, 30), (200, 100), (0, 0, 40, 40)),           # moved right and down
    ((170, 75, 30, 25), (200, 100), (160, 60, 200, 100)),   # moved left and up
    ((20, 5, 150, 90), (200, 100), (45, 0, 145, 100)),      # as large as the picture is high, round the bird's middle
    ((0, 0, 200, 100), (200, 100), (50, 0, 150, 100)),
    ((10, 10, .2, .2), (200, 100), (10, 10, 11, 11)),       # never empty
    ((500, 500, 30, 30), (200, 100), (160, 60, 200, 100)),  # a box outside the picture
])
def test_square_round_a_bird(box, size, square): assert square_box(box, size) == square

def test_square_fills_as_much_as_asked():
    assert (square_box((40, 40, 20, 10), (200, 200), 1) == (40, 35, 60, 55)
            and square_box((40, 40, 20, 10), (200, 200), .5) == (30, 25, 70, 65))

def test_captions_are_cleaned(cub):
    file = cub/'cvpr2016_cub/text_c10/001.Red_bird/Red_1.txt'
    file.write_bytes('\ufeffa red\ufffd\ufffdbird\r\n\r\n   \n  with  a\tcaf\u00e9\u2028beak \r\nlast'.encode())
    assert load_cub(cub).captions(0) == ['a red bird', 'with a café beak', 'last']

def change(*replace, delete=None, write=None, **arguments): return replace, delete, write, arguments
TEXT = 'cvpr2016_cub/text_c10/003.Blue_bird/Blue_4.txt'
@pytest.mark.parametrize('case, error, message', [
    (change(delete='CUB_200_2011/images.txt'), FileNotFoundError,
     r"path='.*birds' holds no CUB_200_2011/images\.txt: give the folder.*download=True"),
    (change(delete='CUB_200_2011/bounding_boxes.txt'), FileNotFoundError, r'bounding_boxes\.txt does not exist'),
    (change(delete='CUB_200_2011/images/001.Red_bird/Red_2.jpg'), FileNotFoundError,
     r'images\.txt, row 2: .*Red_2\.jpg does not exist'),
    (change(delete='CUB_200_2011/images/002.Green_bird/Green_3.jpg', split='test'), FileNotFoundError,
     r'images\.txt, row 3: .*Green_3\.jpg does not exist'),
    (change('CUB_200_2011/images.txt', b'2 001.Red_bird/Red_2.jpg', b'001.Red_bird/Red_2.jpg'), ValueError,
     r"images\.txt, row 2: '001\.Red_bird/Red_2\.jpg' is not \"number class/file\.jpg\""),
    (change('CUB_200_2011/images.txt', b'2 001', b'two 001'), ValueError,
     r'images\.txt, row 2: .* is not "number class/file\.jpg"'),
    (change('CUB_200_2011/images.txt', b'2 001', b'1 001'), ValueError,
     r'images\.txt, row 2: number 1 is in row 1 already'),
    (change('CUB_200_2011/images.txt', b'003.Blue_bird/', b''), ValueError,
     r"images\.txt, row 4: 'Blue_4\.jpg' is not \"class/file\.jpg\""),
    (change('CUB_200_2011/images.txt', b'003.Blue_bird/', b'../003.Blue_bird/'), ValueError,
     r'images\.txt, row 4: .*is not "class/file\.jpg"'),
    (change('CUB_200_2011/images.txt', b'Blue', b'Bl\xfce'), ValueError, r'images\.txt is not UTF-8'),
    (change('CUB_200_2011/bounding_boxes.txt', b'2 100.0 60.0', b'2 100.0'), ValueError,
     r"bounding_boxes\.txt, row 2: '2 100.0 20.0 40.0' is not \"number x y width height\""),
    (change('CUB_200_2011/bounding_boxes.txt', b'2 100.0', b'2 left'), ValueError,
     r"bounding_boxes\.txt, row 2: 'left 60.0 20.0 40.0' is not"),
    (change('CUB_200_2011/bounding_boxes.txt', b'20.0 40.0', b'20.0 0.0'), ValueError, r'bounding_boxes\.txt, row 2: '),
    (change('CUB_200_2011/bounding_boxes.txt', b'2 100.0', b'2 nan'), ValueError, r'bounding_boxes\.txt, row 2: '),
    (change('CUB_200_2011/bounding_boxes.txt', b'2 100.0', b'9 100.0'), ValueError,
     r'bounding_boxes\.txt has no row for number 2, 001\.Red_bird/Red_2\.jpg: .*crop=False'),
    (change(delete='cvpr2016_cub/trainvalclasses.txt'), FileNotFoundError,
     r"split='train' needs .*trainvalclasses\.txt, which does not exist.*cvpr2016_cub\.tar\.gz.*split=None"),
    (change(delete='cvpr2016_cub/testclasses.txt', split='test'), FileNotFoundError,
     r"split='test' needs .*testclasses\.txt"),
    (change('cvpr2016_cub/trainvalclasses.txt', b'003.Blue', b'004.Blue'), ValueError,
     r"trainvalclasses\.txt, row 2: there are no pictures of '004\.Blue_bird'"),
    (change(write=('cvpr2016_cub/trainvalclasses.txt', b'\n')), ValueError, r'trainvalclasses\.txt is empty'),
    (change(delete=TEXT), FileNotFoundError,
     r'003\.Blue_bird/Blue_4\.jpg has no captions: .*text_c10.003\.Blue_bird.Blue_4\.txt does not exist'),
    (change(write=(TEXT, b' \r\n\n')), ValueError,
     r'003\.Blue_bird/Blue_4\.jpg has no captions: .*Blue_4\.txt is empty'),
    (change(write=(TEXT, b'a caf\xe9')), ValueError, r'Blue_4\.txt is not UTF-8: save it as UTF-8'),
    (change(split='valid'), ValueError, r"split='valid' is unknown: use one of 'train', 'test', None"),
    (change(size=50), ValueError, r'size=50 is not divisible by 32'),
    (change(captions='nowhere'), FileNotFoundError,
     r'captions: there is no folder text_c10 in nowhere\. It is in cvpr2016_cub\.tar\.gz, '
     r'linked at github\.com/reedscot/cvpr2016.*so that nowhere.text_c10 exists'),
], ids=lambda v: v if isinstance(v, str) else '')
def test_cub_error_names_file_row_and_remedy(cub, case, error, message):
    replace, delete, write, arguments = case
    if replace:
        file = cub/replace[0]; data = file.read_bytes(); assert replace[1] in data
        file.write_bytes(data.replace(*replace[1:]))
    if delete: (cub/delete).unlink()
    if write: (cub/write[0]).write_bytes(write[1])
    with pytest.raises(error, match=message) as e: load_cub(cub, **arguments)
    assert '\n' not in str(e.value)

def test_cub_needs_no_split_files_for_all_and_no_boxes_without_crop(cub):
    for name in ('cvpr2016_cub/trainvalclasses.txt', 'cvpr2016_cub/testclasses.txt', 'CUB_200_2011/bounding_boxes.txt'):
        (cub/name).unlink()
    assert len(load_cub(cub, None, crop=False)) == 4

def test_a_broken_picture_is_named_when_it_is_read(cub):
    (cub/'CUB_200_2011/images/001.Red_bird/Red_2.jpg').write_bytes(b'no picture')
    ds = load_cub(cub); ds[0]
    with pytest.raises(ValueError, match=r'Red_2\.jpg cannot be read as a picture'): ds[1]

def test_worker_processes_read_the_same(cub):
    ds = load_cub(cub, None)
    batches = list(DataLoader(ds, batch_size=2, num_workers=1, multiprocessing_context='spawn'))
    assert [i for b in batches for i in b['id']] == ds.ids
    assert torch.equal(torch.cat([b['image'] for b in batches]), ds.images())

def test_cub_is_downloaded_and_unpacked_once(server, tmp_path, monkeypatch):
    server.body = make_tar(tmp_path/'x.tgz', cub_files().items()).read_bytes()
    monkeypatch.setattr(datasets, 'CUB', (server.url('CUB_200_2011.tgz'), md5(server.body)))
    with pytest.raises(FileNotFoundError, match='no folder text_c10'): load_cub(tmp_path/'new', download=True)
    assert server.asked == []                                       # before an hour's download, not after it
    lay(tmp_path/'new/cvpr2016_cub', CUB_TEXT)
    for _ in range(2): ds = load_cub(tmp_path/'new', None, download=True)
    assert server.asked == [None] and len(ds) == 4 and coloured(ds[0]['image'], RED)[1] == pytest.approx(48, abs=2)

def test_published_addresses_and_checksums():
    from torchvision.datasets import Flowers102
    assert datasets.FLOWERS == (Flowers102._download_url_prefix + Flowers102._file_dict['image'][0],
                                Flowers102._file_dict['image'][1])
    assert datasets.CUB == ('https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz',
                            '97eceeb196236b17998738112f37df78')

# ---------------------------------------------------------------- flowers

FLOWERS = [('class_00001', 'image_00003', RED), ('class_00001', 'image_00001', GREEN),
           ('class_00002', 'image_00002', BLUE)]
FLOWER_TEXT = caption_files([f[:2] for f in FLOWERS], ['class_00001'], ['class_00002'])
flower_files = lambda: {f'jpg/{n}.jpg': jpeg(c, (0, 0, 200, 140)) for _, n, c in FLOWERS}

@pytest.fixture
def flowers(tmp_path):
    lay(tmp_path/'flowers/flowers-102', flower_files()); lay(tmp_path/'flowers/cvpr2016_flowers', FLOWER_TEXT)
    return tmp_path/'flowers'

def test_flowers_take_the_class_from_the_captions(flowers):
    train, test = load_flowers(flowers), load_flowers(flowers, 'test')
    assert (train.ids == ['class_00001/image_00001', 'class_00001/image_00003']
            and test.ids == ['class_00002/image_00002'] and len(load_flowers(flowers, None)) == 3)
    assert train.captions(1) == ['first of image_00003', 'second of image_00003']
    assert [ds[0]['image'].mean((1, 2)).round().tolist() for ds in (train, test)] == [[0, 1, 0], [0, 0, 1]]
    (flowers/'flowers-102/jpg').rename(flowers/'jpg')
    assert load_flowers(flowers).ids == train.ids

@pytest.mark.parametrize('delete, error, message', [
    ('flowers-102/jpg/image_00003.jpg', FileNotFoundError,
     r'class_00001.image_00003\.txt: its picture .*image_00003\.jpg does not exist'),
    ('cvpr2016_flowers/text_c10/class_00002/image_00002.txt', FileNotFoundError,
     r'image_00002\.jpg has no captions: .*text_c10.\*.image_00002\.txt does not exist'),
    ('cvpr2016_flowers/trainvalclasses.txt', FileNotFoundError,
     r"split='train' needs .*trainvalclasses\.txt.*cvpr2016_flowers\.tar\.gz"),
])
def test_flowers_error_names_the_file(flowers, delete, error, message):
    (flowers/delete).unlink()
    with pytest.raises(error, match=message): load_flowers(flowers)

def test_flowers_say_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'holds no flowers-102/jpg: give .*download=True'):
        load_flowers(tmp_path)
    lay(tmp_path, flower_files())
    with pytest.raises(FileNotFoundError, match=r'no folder text_c10.*cvpr2016_flowers\.tar\.gz'):
        load_flowers(tmp_path)

def test_flowers_are_downloaded_where_torchvision_looks(server, tmp_path, monkeypatch):
    server.body = make_tar(tmp_path/'x.tgz', flower_files().items()).read_bytes()
    monkeypatch.setattr(datasets, 'FLOWERS', (server.url('102flowers.tgz'), md5(server.body)))
    lay(tmp_path/'new', FLOWER_TEXT)
    assert len(load_flowers(tmp_path/'new', None, download=True)) == 3
    assert ((tmp_path/'new/flowers-102/102flowers.tgz').is_file()
            and (tmp_path/'new/flowers-102/jpg/image_00001.jpg').is_file())

# ---------------------------------------------------------------- pickles

def py2_string(data, protocol):
    return (b'U' + bytes([len(data)]) + data if protocol and len(data) < 256
            else b'T' + struct.pack('<i', len(data)) + data if protocol
            else b'S' + repr(data)[1:].encode() + b'\n')

def py2_array(a, protocol):
    "An array as Python 2's NumPy pickled it: its bytes are a string."
    s, n = (lambda d: py2_string(d, protocol)), (lambda i: b'I%d\n' % i)
    code, order = a.dtype.str[1:].encode(), a.dtype.str[:1].encode()
    return (b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(' + n(0) + b't' + s(b'b') + b'tR('
            + n(1) + b'(' + b''.join(map(n, a.shape)) + b't'
            b'cnumpy\ndtype\n(' + s(code) + n(0) + n(1) + b'tR('
            + n(3) + s(order) + b'NNN' + n(-1) + n(-1) + n(0) + b'tbI00\n' + s(a.tobytes()) + b'tb')

def py2_list(items, protocol): return (b'\x80\x02' if protocol == 2 else b'') + b'(' + b''.join(items) + b'l.'

ARRAYS = [np.random.default_rng(i).normal(size=(10, 1024)).astype('float32') for i in range(3)]

@pytest.mark.parametrize('protocol', [0, 2])
@pytest.mark.parametrize('kind', ['<f4', '<f8', '>f4', '<i8', '|u1', '|b1'])
def test_arrays_of_python_2_come_back_as_they_were(tmp_path, protocol, kind):
    arrays = [(a[:3, :200]*3).astype(kind) for a in ARRAYS]
    (tmp_path/'x.pickle').write_bytes(py2_list([py2_array(a, protocol) for a in arrays], protocol))
    found, real = (restricted_load(tmp_path/'x.pickle'),
                   pickle.loads((tmp_path/'x.pickle').read_bytes(), encoding='latin1'))
    assert isinstance(found, list) and len(found) == 3
    for a, b, c in zip(found, real, arrays):
        np.testing.assert_array_equal(a, c); np.testing.assert_array_equal(b, c)
        assert a.dtype == b.dtype

@pytest.mark.parametrize('protocol', range(5))
@pytest.mark.parametrize('old_name', [True, False])
def test_what_python_3_writes_comes_back_too(tmp_path, protocol, old_name):
    value = {'list': [1, 2.5, None, True, 'café', b'\xff\x00'], 'tuple': (1, ('a',)), 'array': ARRAYS[0][:, :50],
             'columns': np.asfortranarray(ARRAYS[1][:4, :3]), 'number': np.float64(.1)}
    # before, no bytes were written as a call of `bytes`, which is not admitted
    if protocol > 2: value['none'] = np.zeros((0, 4))
    data = pickle.dumps(value, protocol)
    if old_name and protocol < 4: data = data.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
    (tmp_path/'x.pickle').write_bytes(data)
    found = restricted_load(tmp_path/'x.pickle')
    assert found.keys() == value.keys() and all(found[k] == value[k] for k in ('list', 'tuple', 'number'))
    for k in {'array', 'columns', 'none'} & set(value): np.testing.assert_array_equal(found[k], value[k])
    found['array'][0, 0] = 7                                        # it can be written to

class Call:
    def __init__(self, function, *args): self.call = function, args
    def __reduce__(self): return self.call

G = lambda module, name: f'c{module}\n{name}\n'.encode()
EVIL = {
    'os.system': G('os', 'system') + b"(S'touch MARK'\ntR.",
    'posix.system': pickle.dumps(Call(os.system, 'touch MARK'), 2),
    'nt.system': G('nt', 'system') + b"(S'touch MARK'\ntR.",
    'builtins.eval': pickle.dumps(Call(eval, "open('MARK', 'w')"), 4),
    '__builtin__.eval': G('__builtin__', 'eval') + b"(S'open(\"MARK\", \"w\")'\ntR.",
    'builtins.getattr': pickle.dumps([ARRAYS[0][:2], Call(getattr, Call(__import__, 'os'), 'system')], 4),
    'os.path.os.system': b'\x80\x04\x8c\x02os\x8c\x0epath.os.system\x93(\x8c\ntouch MARKtR.',
    'numpy.load': G('numpy', 'load') + b"(S'MARK'\ntR.",
    'numpy.core.multiarray.fromfile': G('numpy.core.multiarray', 'fromfile') + b"(S'MARK'\ntR.",
    'numpy.dtype.__class__': b'\x80\x04\x8c\x05numpy\x8c\x0fdtype.__class__\x93.',
    'numpy._core.multiarray.__builtins__': G('numpy._core.multiarray', '__builtins__') + b'.',
    '_codecs.lookup': G('_codecs', 'lookup') + b"(S'x'\ntR.",
    'collections.OrderedDict': G('collections', 'OrderedDict') + b'(tR.',
    'copyreg._reconstructor': pickle.dumps(type('Thing', (), {
        '__reduce__': lambda self: (__import__('copyreg')._reconstructor, (object, object, None))})(), 2),
    'os.system by INST': b"(S'touch MARK'\nios\nsystem\n.",
    'os.system by OBJ': b"(" + G('os', 'system') + b"S'touch MARK'\no.",
    "arrays of 'O8'": pickle.dumps([np.array(['a', None], object)], 2),
    "arrays of 'V8'": pickle.dumps([np.zeros(2, 'i4,f4')], 2),
}
@pytest.mark.parametrize('asks', EVIL)
def test_a_pickle_that_asks_for_more_is_refused_and_nothing_runs(tmp_path, monkeypatch, asks):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'gift.pickle').write_bytes(EVIL[asks])
    ran = []
    for owner, name in ((os, 'system'), (os, 'popen'),
                        (builtins, 'eval'), (builtins, 'exec'), (builtins, '__import__')):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, _real=real, _name=name, **k: (
            _name == '__import__' or ran.append(_name)) and _real(*a, **k))
    with pytest.raises(ValueError, match=r'gift\.pickle is refused: it asks for .*nothing of it was run') as e:
        restricted_load(tmp_path/'gift.pickle')
    monkeypatch.undo()
    assert asks.split(' by ')[0].split('.')[-1] in str(e.value) and '\n' not in str(e.value)
    assert ran == [] and [p.name for p in tmp_path.iterdir()] == ['gift.pickle']

ARRAY = py2_array(ARRAYS[0][:2, :8], 2)
FORGED = {
    'no pickle': b'PK\x03\x04 this is a zip', 'a page': b'<!DOCTYPE html><html>', 'empty': b'', 'only a dot': b'.',
    'cut': py2_list([ARRAY], 2)[:-20], 'cut in the array': py2_list([ARRAY], 2)[:150],
    'huge string': b'\x80\x04\x8e' + struct.pack('<Q', 1 << 62) + b'abc.',
    'large string': b'\x80\x04\x8e' + struct.pack('<Q', 1 << 36) + b'abc.',
    'huge frame': b'\x80\x04\x95' + struct.pack('<Q', 1 << 40),
    'negative string': b'\x80\x02T' + struct.pack('<i', -5) + b'abc.',
    'shape too large': py2_list([ARRAY.replace(b'I8\n', b'I8000000000\n')], 2),
    'shape too small': py2_list([ARRAY.replace(b'I8\n', b'I7\n')], 2),
    'negative shape': py2_list([ARRAY.replace(b'(I2\nI8\n', b'(I-2\nI-8\n')], 2),
    'array of zeros': py2_list([re.sub(rb'I00\n.*', b'I00\nL99999999999L\ntb', ARRAY, flags=re.S)], 2),
    'kind is a number': py2_list([ARRAY.replace(G('numpy', 'dtype') + b'(U\x02f4', G('numpy', 'dtype') + b'(I4\n')], 2),
    'ndarray called': G('numpy', 'ndarray') + b'((I10000000000\nttR(K\x01tb.',
    'class made': b'\x80\x02' + G('numpy', 'ndarray') + b')\x81.',
    'persistent': b'Pnumber 1\n.', 'extension': b'\x80\x02\x82\x01.', 'unhashable': b'\x80\x02}]Ns.',
}
@pytest.mark.parametrize('what', FORGED)
def test_a_damaged_or_forged_pickle_is_one_sentence(tmp_path, what):
    (tmp_path/'x.pickle').write_bytes(FORGED[what])
    with pytest.raises(ValueError, match=r'x\.pickle is damaged or no pickle of arrays \(.*\): get it again$') as e:
        restricted_load(tmp_path/'x.pickle')
    assert '\n' not in str(e.value) and len(str(e.value)) < 400

def test_a_small_pickle_takes_little_memory(tmp_path):
    """Forged lengths and places ask for 16 to 64 gigabytes;
    the process may have no more than it started with and a little."""
    resource = pytest.importorskip('resource')
    (tmp_path/'place.pickle').write_bytes(b'Nr\xff\xff\xff\x7f.')
    for name in ('large string', 'huge frame', 'array of zeros'): (tmp_path/f'{name}.pickle').write_bytes(FORGED[name])
    code = ('import resource, sys; from pathlib import Path; from sdn_lite.datasets import restricted_load\n'
            'used = int(Path("/proc/self/statm").read_text().split()[0])*resource.getpagesize()\n'
            'resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, resource.RLIM_INFINITY))\n'
            'for f in sorted(Path(sys.argv[1]).glob("*.pickle")):\n'
            '    try: print(f.stem, restricted_load(f))\n'
            '    except ValueError as e: print(f.stem, "MemoryError" in str(e))')
    if not Path('/proc/self/statm').exists(): pytest.skip('needs /proc')
    out = subprocess.run([sys.executable, '-c', code, tmp_path], capture_output=True, text=True)
    assert out.stdout.splitlines() == [
        'array of zeros False', 'huge frame False', 'large string False', 'place None'], out.stderr

def test_a_pickle_leaves_no_trace_in_the_next(tmp_path):
    "It writes attributes onto the functions that it is given: the next pickle gets new ones."
    (tmp_path/'bad.pickle').write_bytes(
        b'\x80\x02' + G('_codecs', 'encode')
        + b'N}X\x0c\x00\x00\x00__defaults__(K\x07tsX\x05\x00\x00\x00extraK\x01s\x86b.')
    restricted_load(tmp_path/'bad.pickle')
    assert not [f for f in datasets._ADMITTED.values() if hasattr(f, 'extra') or getattr(f, '__defaults__', None)]

# ---------------------------------------------------------------- the authors' files

IDS = [f'{k}/{n}' for k, n, _, _ in BIRDS[:3]]

@pytest.fixture
def authors(tmp_path):
    lay(tmp_path, {f'images/{k}/{n}.jpg': jpeg(c, (0, 0, 200, 140)) for k, n, c, _ in BIRDS[:3]})
    for split, part in (('train', slice(0, 2)), ('test', slice(2, 3))):
        lay(tmp_path/split, {'filenames.pickle': py2_list([py2_string(i.encode(), 2) for i in IDS[part]], 2),
                             'char-CNN-RNN-embeddings.pickle': py2_list([py2_array(a, 2) for a in ARRAYS[part]], 2)})
    return tmp_path

def test_the_authors_files_give_pictures_and_vectors(authors):
    train, test = load_stackgan(authors), load_stackgan(authors, 'test', 32)
    assert (train.ids == IDS[:2] and test.ids == IDS[2:]
            and train.captions(1) == ['red bird'] and test[0]['caption'] == 'green bird')
    for i in range(2):
        z = train.vectors(i)
        assert z.dtype == torch.float32 and z.shape == (10, 1024) and np.array_equal(z.numpy(), ARRAYS[i])
    assert (np.array_equal(test.vectors(0).numpy(), ARRAYS[2]) and test[0]['image'].shape == (3, 32, 32)
            and test[0]['image'].mean((1, 2)).round().tolist() == [0, 1, 0])
    again = pickle.loads(pickle.dumps(train))                       # as a worker process gets it
    assert torch.equal(again.vectors(1), train.vectors(1)) and torch.equal(again[1]['image'], train[1]['image'])

@pytest.mark.parametrize('texts', ['text', 'text_c10'])
def test_captions_beside_the_vectors_are_read(authors, texts):
    lay(authors, {f'{texts}/{i}.txt': f'one {i}\ntwo {i}\n'.encode() for i in IDS})
    assert load_stackgan(authors).captions(0) == [f'one {IDS[0]}', f'two {IDS[0]}']
    (authors/texts/f'{IDS[1]}.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r'001\.Red_bird/Red_2 has no captions: .*Red_2\.txt does not exist'):
        load_stackgan(authors)

def test_pictures_may_lie_in_the_folder_of_cub(authors):
    (authors/'CUB_200_2011').mkdir(); (authors/'images').rename(authors/'CUB_200_2011/images')
    assert load_stackgan(authors)[0]['image'].mean((1, 2)).round().tolist() == [1, 0, 0]

NAMES, VECTORS = 'filenames.pickle', 'char-CNN-RNN-embeddings.pickle'
@pytest.mark.parametrize('file, data, error, message', [
    (VECTORS, pickle.dumps(ARRAYS, 2), ValueError,
     r'filenames\.pickle has 2 names, but .*embeddings\.pickle has 3 arrays: both must come from one release'),
    (VECTORS, pickle.dumps(7, 2), ValueError, r'embeddings\.pickle is not a list of arrays'),
    (VECTORS, pickle.dumps([ARRAYS[0], ARRAYS[1][:9]], 2), ValueError,
     r'embeddings\.pickle: the entry of 001\.Red_bird/Red_2 is not an array of numbers \(10, 1024\)'),
    (VECTORS, pickle.dumps([ARRAYS[0], 'a'], 2), ValueError, r'the entry of 001\.Red_bird/Red_2 is not'),
    (VECTORS, EVIL['posix.system'], ValueError, r'embeddings\.pickle is refused: it asks for (posix|nt)\.system'),
    (VECTORS, None, FileNotFoundError, r'embeddings\.pickle does not exist'),
    (NAMES, None, FileNotFoundError, r'filenames\.pickle does not exist'),
    (NAMES, EVIL['builtins.eval'], ValueError, r'filenames\.pickle is refused: it asks for builtins\.eval'),
    (NAMES, pickle.dumps(['Red_1', 'Red_2'], 2), ValueError, r"filenames\.pickle is not a list of 'class/file'"),
    (NAMES, pickle.dumps([], 2), ValueError, r"filenames\.pickle is not a list of 'class/file'"),
    (NAMES, pickle.dumps([IDS[0], '009.Gone/Gone_1'], 2), FileNotFoundError,
     r"filenames\.pickle names '009\.Gone/Gone_1', but .*Gone_1\.jpg does not exist"),
])
def test_the_authors_files_error_names_file_and_entry(authors, file, data, error, message):
    (authors/'train'/file).unlink()
    if data is not None: (authors/'train'/file).write_bytes(data)
    with pytest.raises(error, match=message): load_stackgan(authors)

def test_the_authors_files_have_two_splits(authors):
    with pytest.raises(ValueError, match=r"split=None is unknown: use one of 'train', 'test'$"):
        load_stackgan(authors, None)
