import json, os, random, subprocess, sys
import pytest, torch
from PIL import Image
from sdn_lite.data import (SPLITS, TONES, emoji_captions, emoji_split, emoji_table, load_emoji, load_folder,
                           open_picture)
from conftest import write_csv

ROWS = {r['id']: r for r in emoji_table()}
HELD = ('valid', 'compositional', 'unseen')

# ---------------------------------------------------------------- bundled emoji

@pytest.mark.parametrize('arguments, message', [
    (dict(subset='medium'), r"subset='medium'.*'small', 'all'"),
    (dict(split='test'), r"split='test'.*'train', 'valid', 'compositional', 'unseen'"),
    (dict(subset='small', split='compositional'), r"compositional.*small.*subset='all'"),
    *[(dict(size=size), fr'size={size!r} is not divisible by 32.*use {near}$') for size, near in
      [(50, 64), (0, 32), (-32, 32), (-7, 32), (31, 32), (100, 96), (64.0, 64), (70.5, 64), ('64', 64), (None, 64),
       (float('nan'), 64), (float('inf'), 64)]],
])
def test_wrong_argument_names_value_and_choices(arguments, message):
    with pytest.raises(ValueError, match=message): load_emoji(**arguments)

@pytest.mark.parametrize('id, split', [
    ('1F600', 'train'), ('1F34E', 'train'), ('1F44B', 'train'), ('1F44B-1F3FC', 'train'),
    ('1F604', 'valid'), ('1F92E', 'valid'), ('1F61C', 'unseen'), ('1F914', 'unseen'),
    ('1F44B-1F3FB', 'compositional'), ('1F590-1F3FD', 'compositional'),
])
def test_split_of_an_id_never_changes(id, split): assert emoji_split(ROWS[id]) == split

@pytest.mark.parametrize('subset, splits', [('small', ('train', 'valid', 'unseen')), ('all', SPLITS)])
def test_splits_are_disjoint_and_cover_the_subset(subset, splits):
    ids = [i for s in splits for i in load_emoji(subset, s).ids]
    groups = ('smileys-emotion', 'animals-nature', 'food-drink')
    assert len(ids) == len(set(ids))
    assert set(ids) == {i for i, r in ROWS.items() if subset == 'all' or r['group'] in groups}

def test_small_is_a_part_of_all():
    for s in ('train', 'valid', 'unseen'): assert set(load_emoji('small', s).ids) < set(load_emoji('all', s).ids)

def test_splits_and_captions_are_the_same_under_another_hash_seed():
    dump = [(i, emoji_split(r), emoji_captions(r)) for i, r in ROWS.items()]
    code = ('import json; from sdn_lite.data import *; '
            'print(json.dumps([(r["id"], emoji_split(r), emoji_captions(r)) for r in emoji_table()]))')
    out = subprocess.run([sys.executable, '-c', code], env=os.environ | dict(PYTHONHASHSEED='7'),
                         capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == json.loads(json.dumps(dump))

@pytest.mark.parametrize('subset', ['small', 'all'])
def test_no_held_out_picture_is_a_train_picture(subset):
    def pixels(split):
        ds = load_emoji(subset, split)
        return {id: ds.read(i).numpy().tobytes() for i, id in enumerate(ds.ids)}
    train = {picture: id for id, picture in pixels('train').items()}
    for split in HELD if subset == 'all' else ('valid', 'unseen'):
        twins = [(id, train[p]) for id, p in pixels(split).items() if p in train]
        assert not twins, f'{split} shows pictures of train: {twins}'

def test_no_held_out_family_is_in_train():
    families = lambda s: {ROWS[i]['family'] for i in load_emoji('all', s).ids}
    seen = families('train') | families('compositional')
    assert not seen & families('unseen') and not seen & families('valid') and not families('valid') & families('unseen')

def test_base_form_and_tone_of_compositional_pictures_are_in_train():
    train = [ROWS[i] for i in load_emoji('all', 'train').ids]
    bases, tones = {r['id'] for r in train}, {r['tone'] for r in train}
    held = [ROWS[i] for i in load_emoji('all', 'compositional').ids]
    assert not [r['id'] for r in held if r['base'] not in bases]
    assert not [r['id'] for r in held if r['tone'] not in tones]

def test_captions_are_filled_and_unique_within_a_picture():
    for r in ROWS.values():
        captions = emoji_captions(r)
        assert captions and all(c and c == c.strip() for c in captions) and len(set(captions)) == len(captions), r['id']

def test_toned_captions_name_every_tone():
    toned = [r for r in ROWS.values() if r['tone']]
    assert len(toned) > 1000
    for r in toned:
        assert all(f'{TONES[t]} skin tone' in c for c in emoji_captions(r) for t in r['tone']), r['id']

def test_pictures_with_different_tones_have_different_captions():
    first = [emoji_captions(r)[0] for r in ROWS.values()]
    twins = {c for c in first if first.count(c) > 1}
    assert not twins

@pytest.mark.parametrize('size', [32, 64, 96])
def test_pictures_have_the_asked_size_and_range(size):
    ds = load_emoji('small', 'valid', size)
    images = ds.images()
    assert images.shape == (len(ds), 3, size, size) and images.dtype == torch.float32
    assert images.min() >= 0 and .99 < images.max() <= 1 and images.std() > .1
    assert torch.equal(ds[3]['image'], images[3]) and ds[3]['caption'] == ds.captions(3)[0] and ds[3]['id'] == ds.ids[3]

def test_resized_pictures_are_the_bundled_ones():
    small, big = load_emoji('small', 'valid', 32), load_emoji('small', 'valid', 64)
    assert small.ids == big.ids
    pooled = torch.nn.functional.avg_pool2d(big.images(), 2)
    assert (small.images() - pooled).abs().mean() < .02

def test_indices_work_as_in_a_list():
    ds = load_emoji()
    assert ds[-1]['id'] == ds.ids[-1]
    with pytest.raises(IndexError): ds[len(ds)]
    assert [s['id'] for s in load_emoji('small', 'valid')] == load_emoji('small', 'valid').ids

def test_captions_cannot_be_changed_from_outside():
    ds = load_emoji(); ds.captions(0).append('no')
    assert 'no' not in ds.captions(0)

# ---------------------------------------------------------------- a folder of your own

@pytest.fixture
def folder(tmp_path):
    "a.png is red, b.png is green; the table names both."
    Image.new('RGB', (40, 40), (255, 0, 0)).save(tmp_path/'a.png')
    Image.new('RGB', (40, 40), (0, 255, 0)).save(tmp_path/'b.png')
    return write_csv(tmp_path, [('a.png', 'a red square'), ('b.png', 'a green square')])

def colour(path, size=32):
    return [round(c, 1) for c in load_folder(path, size)[0]['image'][:, size//2, size//2].tolist()]

def test_folder_gives_pictures_captions_and_ids(folder):
    ds = load_folder(folder, 32)
    assert ds.ids == ['a.png', 'b.png'] and [s['caption'] for s in ds] == ['a red square', 'a green square']
    assert ds[0]['image'].shape == (3, 32, 32) and ds[0]['image'][:, 5, 5].tolist() == [1, 0, 0]

def table(name, text, error, message): return pytest.param(name, text, error, message, id=message)

@pytest.mark.parametrize('name, text, error, message', [
    table('metadata.csv', 'file_name,text\na.png,red\nc.png,blue\n', FileNotFoundError,
          r'metadata\.csv, row 3: .*c\.png does not exist'),
    table('metadata.csv', 'file_name,text\na.png,red\nb.png,  \n', ValueError,
          r'metadata\.csv, row 3: the caption is empty.*text'),
    table('metadata.csv', 'file_name,text\n,red\n', ValueError, r'metadata\.csv, row 2: file_name is empty.*file_name'),
    table('metadata.csv', 'file_name,text\na.png,a red, round thing\n', ValueError,
          r'metadata\.csv, row 2: too many columns.*quotes'),
    table('metadata.csv', 'file_name,text\na.png\n', ValueError,
          r'metadata\.csv, row 2: the caption is empty or missing.*text'),
    table('metadata.csv', 'file_name,text\na.png,red\nb.png,green\na.png,red\n', ValueError,
          r'metadata\.csv, row 4: a\.png has the same caption in row 2; remove'),
    table('metadata.csv', 'file,text\na.png,red\n', ValueError, r'metadata\.csv, row 2: file_name is .*missing'),
    table('metadata.csv', 'file_name,caption\na.png,red\n', ValueError,
          r'metadata\.csv, row 2: the caption is .*missing.*column text'),
    table('metadata.csv', 'file_name;text\na.png;red\n', ValueError, r'metadata\.csv, row 2: file_name is .*missing'),
    table('metadata.csv', 'file_name,text\n', ValueError, r'metadata\.csv has no rows: add one'),
    table('metadata.csv', '', ValueError, r'metadata\.csv has no rows: add one'),
    table('metadata.csv', 'file_name,text\na.png,caf\xe9\n'.encode('latin-1'), ValueError, r'metadata\.csv.*UTF-8'),
    table('metadata.jsonl', '\n\n', ValueError, r'metadata\.jsonl has no rows: add one'),
    table('metadata.jsonl', '{"file_name": "a.png", "text": "red"}\n{file_name: b.png}\n', ValueError,
          r'metadata\.jsonl, row 2: not JSON.*"file_name"'),
    table('metadata.jsonl', '{"file_name": "a.png", "text": 7}\n', ValueError,
          r'metadata\.jsonl, row 1: the caption is .*text'),
    table('metadata.jsonl', '{"file_name": "a.png"}\n', ValueError,
          r'metadata\.jsonl, row 1: the caption is .*missing.*text'),
    table('metadata.jsonl', '["a.png", "red"]\n', ValueError, r'metadata\.jsonl, row 1: .*"?file_name'),
])
def test_error_names_file_row_and_remedy(folder, name, text, error, message):
    (folder/'metadata.csv').unlink()
    (folder/name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=message): load_folder(folder, 32)

def test_no_folder_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path='.*nowhere' is not a folder: "
                                                r"give the folder that holds metadata\.csv"):
        load_folder(tmp_path/'nowhere')

def test_no_table_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no metadata\.csv, metadata\.jsonl or metadata\.parquet: '
                                                r'add one with the columns file_name and text'):
        load_folder(tmp_path)

@pytest.mark.parametrize('arguments, message', [
    (dict(size=33), r'size=33.*use 32'), (dict(split='unseen'), r"split='unseen'.*'train', 'valid'")])
def test_folder_checks_its_arguments(folder, arguments, message):
    with pytest.raises(ValueError, match=message): load_folder(folder, **arguments)

@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b[:len(b)//2], lambda b: b'GIF89a' + b[6:],
                                    lambda b: b'a text'],
                         ids=['no bytes', 'truncated', 'other format', 'text'])
def test_broken_picture_is_named_with_its_row(folder, damage):
    noise = Image.frombytes('RGB', (40, 40), random.Random(0).randbytes(4800)); noise.save(folder/'b.png')
    (folder/'b.png').write_bytes(damage((folder/'b.png').read_bytes()))
    with pytest.raises(ValueError, match=r'metadata\.csv, row 3: .*b\.png cannot be read as a picture'):
        load_folder(folder, 32)

def test_jsonl_gives_the_same_as_csv(folder):
    was = load_folder(folder, 32)
    (folder/'metadata.csv').unlink()
    (folder/'metadata.jsonl').write_text('{"file_name": "a.png", "text": "a red square"}\n\n'
                                         '{"file_name": "b.png", "text": "a green square", "more": 1}\n')
    now = load_folder(folder, 32)
    assert (now.ids == was.ids and [s['caption'] for s in now] == [s['caption'] for s in was]
            and torch.equal(now.images(), was.images()))

@pytest.mark.parametrize('newline', ['\n', '\r\n'])
@pytest.mark.parametrize('bom', [b'', b'\xef\xbb\xbf'])
def test_csv_as_windows_writes_it(folder, newline, bom):
    rows = ['file_name,text', 'a.png,"a ""red"", square"', 'b.png,Grün', '']
    (folder/'metadata.csv').write_bytes(bom + newline.join(rows).encode())
    assert [s['caption'] for s in load_folder(folder, 32)] == ['a "red", square', 'Grün']

def test_several_captions_of_a_picture_are_kept_in_order(folder):
    write_csv(folder, [('a.png', 'red'), ('b.png', 'green'), ('a.png', 'crimson')])
    ds = load_folder(folder, 32)
    assert len(ds) == 2 and ds.captions(0) == ['red', 'crimson'] and ds[0]['caption'] == 'red'

@pytest.mark.parametrize('name', ['sub/folder/a.png', 'a red ball.png', 'Käfer été.png', '猫.png'])
def test_any_file_name_works(tmp_path, name):
    (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (32, 32), (255, 0, 0)).save(tmp_path/name)
    write_csv(tmp_path, [(name, 'red')])
    assert load_folder(tmp_path, 32).ids == [name] and colour(tmp_path) == [1, 0, 0]

def palette_with_hole():
    "Index 0 (red) is transparent in the middle; index 1 is blue."
    img = Image.new('P', (32, 32), 1); img.putpalette([255, 0, 0, 0, 0, 255])
    img.paste(0, (8, 8, 24, 24)); img.info['transparency'] = 0
    return img

@pytest.mark.parametrize('name, picture, expected', [
    ('gray.png', lambda: Image.new('L', (32, 32), 51), [.2, .2, .2]),
    ('gray-alpha.png', lambda: Image.new('LA', (32, 32), (0, 51)), [.8, .8, .8]),
    ('bits.png', lambda: Image.new('1', (32, 32), 1), [1, 1, 1]),
    ('palette.png', palette_with_hole, [1, 1, 1]),
    ('clear.png', lambda: Image.new('RGBA', (32, 32), (255, 0, 0, 0)), [1, 1, 1]),
    ('half.png', lambda: Image.new('RGBA', (32, 32), (255, 0, 0, 51)), [1, .8, .8]),
    ('print.jpg', lambda: Image.new('CMYK', (32, 32), (0, 255, 255, 0)), [1, 0, 0]),
    ('moving.gif', lambda: Image.new('P', (32, 32), 0), [0, 0, 0]),
    ('dot.png', lambda: Image.new('RGB', (1, 1), (0, 0, 255)), [0, 0, 1]),
])
def test_every_kind_of_picture_becomes_rgb_on_white(tmp_path, name, picture, expected):
    picture().save(tmp_path/name); write_csv(tmp_path, [(name, 'it')])
    assert colour(tmp_path) == expected
    assert load_folder(tmp_path, 32)[0]['image'].shape == (3, 32, 32)

def test_palette_keeps_its_opaque_part(tmp_path):
    palette_with_hole().save(tmp_path/'p.png')
    assert open_picture(tmp_path/'p.png')[:, 0, 0].tolist() == [0, 0, 255]

def test_16_bit_png_keeps_its_grays(tmp_path):
    ramp = torch.linspace(0, 65535, 32).round().int().expand(32, 32).numpy().astype('uint16')
    Image.fromarray(ramp).save(tmp_path/'deep.png')
    with Image.open(tmp_path/'deep.png') as f: assert f.mode.startswith('I')   # else the test says nothing
    gray = open_picture(tmp_path/'deep.png')[:, 5].float()
    assert (gray - torch.linspace(0, 255, 32)).abs().max() <= 2

@pytest.mark.parametrize('kind', ['png', 'jpg'])
def test_picture_is_turned_as_its_exif_says(tmp_path, kind):
    img = Image.new('RGB', (64, 32), 'white'); img.paste((0, 0, 0), (0, 0, 32, 32))   # left half is black
    # shown turned clockwise: top half is black
    exif = Image.Exif(); exif[0x0112] = 6
    img.save(tmp_path/f'turned.{kind}', exif=exif)
    seen = open_picture(tmp_path/f'turned.{kind}').float()/255
    assert seen.shape == (3, 64, 32) and seen[:, :28].max() < .1 and seen[:, 36:].min() > .9

def test_middle_of_a_wide_picture_is_kept(tmp_path):
    img = Image.new('RGB', (96, 32), 'white'); img.paste((255, 0, 0), (32, 0, 64, 32)); img.save(tmp_path/'wide.png')
    write_csv(tmp_path, [('wide.png', 'it')])
    assert load_folder(tmp_path, 32)[0]['image'].flatten(1).mean(1).tolist() == [1, 0, 0]

def test_folder_splits_are_stable_disjoint_and_complete(tmp_path):
    names = [f'{k:02}.png' for k in range(40)]
    for n in names: Image.new('RGB', (1, 1)).save(tmp_path/n)
    write_csv(tmp_path, [(n, f'picture {n}') for n in reversed(names)])
    assert sorted(load_folder(tmp_path, 32, 'valid').ids) == ['02.png', '03.png', '06.png', '33.png']
    assert (sorted(load_folder(tmp_path, 32, 'train').ids)
            == [n for n in names if n not in ('02.png', '03.png', '06.png', '33.png')])

def test_split_of_a_file_does_not_depend_on_the_others(tmp_path):
    for n in ('02.png', '04.png'): Image.new('RGB', (1, 1)).save(tmp_path/n)
    write_csv(tmp_path, [('04.png', 'a'), ('02.png', 'b')])
    assert load_folder(tmp_path, 32, 'valid').ids == ['02.png'] and load_folder(tmp_path, 32, 'train').ids == ['04.png']

# ---------------------------------------------------------------- large folders, other tables, hostile files

@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_tables_with_a_mark_and_without_read_alike(folder, encoding):
    (folder/'metadata.csv').write_bytes(
        'file_name,text\r\na.png,ein grüner Apfel\r\nb.png,яблоко 🍎\r\n'.encode(encoding))
    assert [s['caption'] for s in load_folder(folder, 32)] == ['ein grüner Apfel', 'яблоко 🍎']

def test_an_encoding_without_a_mark_is_said_and_not_guessed(folder):
    (folder/'metadata.csv').write_bytes('file_name,text\na.png,grün\n'.encode('cp1252'))
    with pytest.raises(ValueError, match=r'metadata\.csv is not UTF-8: save it as "CSV UTF-8"'): load_folder(folder, 32)

def test_a_list_of_captions_in_jsonl_and_parquet(folder):
    import pyarrow as pa, pyarrow.parquet as pq
    (folder/'metadata.csv').unlink(); texts = [['one', 'two'], ['three']]
    (folder/'metadata.jsonl').write_text(
        ''.join(json.dumps(dict(file_name=f, text=t)) + '\n' for f, t in zip(('a.png', 'b.png'), texts)))
    a = load_folder(folder, 32); (folder/'metadata.jsonl').unlink()
    pq.write_table(pa.table(dict(file_name=['a.png', 'b.png'], text=texts, other=[1, 2])), folder/'metadata.parquet')
    b = load_folder(folder, 32)
    assert [a.captions(i) for i in range(2)] == [b.captions(i) for i in range(2)] == texts and a.ids == b.ids

@pytest.mark.parametrize('text', [[], ['one', ''], ['one', None], 5, None], ids=str)
def test_a_list_without_or_with_an_empty_caption_is_named(folder, text):
    (folder/'metadata.csv').unlink()
    (folder/'metadata.jsonl').write_text(json.dumps(dict(file_name='a.png', text='x')) + '\n'
                                         + json.dumps(dict(file_name='b.png', text=text)))
    with pytest.raises(ValueError, match=r'metadata\.jsonl, row 2: the caption is empty or missing; '
                                         r'fill the column text'):
        load_folder(folder, 32)

@pytest.mark.parametrize('content', [b'', b'PAR1 no table PAR1'], ids=['empty', 'other'])
def test_a_damaged_parquet_table_is_said(folder, content):
    (folder/'metadata.csv').unlink(); (folder/'metadata.parquet').write_bytes(content)
    with pytest.raises(ValueError, match=r'metadata\.parquet cannot be read as Parquet .*write it again'):
        load_folder(folder, 32)

def test_parquet_without_pyarrow_says_what_to_install(folder, monkeypatch):
    (folder/'metadata.csv').unlink(); (folder/'metadata.parquet').write_bytes(b'x')
    monkeypatch.setitem(sys.modules, 'pyarrow', None); monkeypatch.setitem(sys.modules, 'pyarrow.parquet', None)
    with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'sdn_lite\[data\]'"): load_folder(folder, 32)

def png_that_claims(width, height):
    "A PNG of a few bytes whose header says it is huge."
    import struct, zlib
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''))

@pytest.mark.parametrize('side', [30_000, 10_000])
def test_a_huge_picture_is_refused_before_it_fills_the_memory(folder, side):
    (folder/'b.png').write_bytes(png_that_claims(side, side))
    with pytest.raises(ValueError, match=r'row 3: .*b\.png cannot be read as a picture '
                                         r'\(it has more than 89 million pixels: make it smaller\)'):
        load_folder(folder, 32)

def test_the_first_frame_of_a_film_is_taken(folder):
    frames = [Image.new('RGB', (32, 32), c) for c in ('red', 'blue')]
    frames[0].save(folder/'a.png', format='GIF', save_all=True, append_images=frames[1:])
    assert load_folder(folder, 32)[0]['image'].mean((1, 2)).tolist() == pytest.approx([1, 0, 0], abs=.01)

def test_a_large_jpeg_looks_the_same_when_it_is_decoded_smaller(tmp_path):
    y, x = torch.meshgrid(torch.linspace(0, 1, 700), torch.linspace(0, 1, 900), indexing='ij')
    Image.fromarray((torch.stack([x, y, (8*x).sin()**2], -1)*255).byte().numpy()).save(tmp_path/'a.jpg', quality=95)
    from sdn_lite.data import resize
    slow, fast = (resize(open_picture(tmp_path/'a.jpg', side), 64).float() for side in (None, 64))
    assert open_picture(tmp_path/'a.jpg', 64).shape[1] < 300 and (slow - fast).abs().mean() < 2

def test_a_box_is_cut_from_a_picture_that_is_decoded_smaller(tmp_path):
    img = Image.new('RGB', (800, 600), 'white'); img.paste('red', (400, 200, 600, 400))
    img.save(tmp_path/'a.jpg', quality=95)
    for side in (None, 32):
        red = open_picture(tmp_path/'a.jpg', side, (410, 210, 590, 390)).float().mean((1, 2))
        assert red.tolist() == pytest.approx([254, 0, 0], abs=6)
        half = open_picture(tmp_path/'a.jpg', side, (500, 200, 700, 400)).float()
        assert half[1].mean().item() == pytest.approx(127, abs=8)           # half of it is white

def test_an_unreadable_folder_is_an_error_of_the_system_that_names_it(folder):
    os.chmod(folder, 0); user = os.geteuid()
    try:
        if user == 0: os.seteuid(65534)                                    # root may read everything
        with pytest.raises(PermissionError, match=folder.name): load_folder(folder, 32)
    finally: os.seteuid(user); os.chmod(folder, 0o700)

@pytest.mark.parametrize('method', ['fork', 'spawn'])
def test_worker_processes_read_folders_and_emoji(folder, method):
    from torch.utils.data import DataLoader
    for ds in (load_folder(folder, 32), torch.utils.data.Subset(load_emoji(size=32), range(4))):
        got = list(DataLoader(ds, batch_size=2, num_workers=2, multiprocessing_context=method))
        assert [c for b in got for c in b['caption']] == [ds[i]['caption'] for i in range(len(ds))]
        assert torch.equal(torch.cat([b['image'] for b in got]), torch.stack([ds[i]['image'] for i in range(len(ds))]))

def test_a_picture_that_breaks_after_loading_is_named_when_it_is_read(folder):
    ds = load_folder(folder, 32); (folder/'b.png').write_bytes(b'')
    with pytest.raises(ValueError, match=r'b\.png cannot be read as a picture .*'
                                         r'replace it or take it out of the table'):
        ds[1]

def test_check_opens_as_many_pictures_as_it_is_told(folder):
    (folder/'b.png').write_bytes(b'')
    assert len(load_folder(folder, 32, check=1)) == len(load_folder(folder, 32, check=0)) == 2
    with pytest.raises(ValueError, match=r'b\.png cannot be read'): load_folder(folder, 32, check=2)

def test_rows_of_one_picture_need_not_stand_together(folder):
    write_csv(folder, [('a.png', '1'), ('b.png', '2'), ('a.png', '3'), ('b.png', '4'), ('a.png', '5')])
    ds = load_folder(folder, 32)
    assert [ds.captions(i) for i in range(2)] == [['1', '3', '5'], ['2', '4']] and '5 captions' in repr(ds)
