"Shards that are never unpacked, and training on the data sets of `sdn_lite.datasets`."
import io, os, pickle, signal, tarfile
from itertools import islice
import numpy as np, pytest, torch
from PIL import Image
from torch.utils.data import DataLoader
from sdn_lite.all import DistillConfig, TextToImage, distill, load_emoji, load_stream
from sdn_lite.datasets import shard_names
from conftest import assert_same_weights, weights

def jpeg(k):
    out = io.BytesIO(); Image.new('RGB', (70, 50), (10*k % 256, 100, 50)).save(out, 'JPEG', quality=95)
    return out.getvalue()

def write_shard(file, samples):
    "A tar of `{key: {ending: bytes}}`."
    with tarfile.open(file, 'w') as t:
        for key, parts in samples.items():
            for ending, data in parts.items():
                member = tarfile.TarInfo(f'{key}.{ending}'); member.size = len(data)
                t.addfile(member, io.BytesIO(data))

@pytest.fixture(scope='session')
def shards(tmp_path_factory):
    "4 shards of 6 pictures: picture k has the captions 'thing k' and 'a thing k'."
    folder = tmp_path_factory.mktemp('shards')
    for s in range(4):
        write_shard(folder/f's-{s:02}.tar', {f'{k:04}': dict(jpg=jpeg(k), txt=f'thing {k}\r\na thing {k}\n'.encode())
                                             for k in range(6*s, 6*s + 6)})
    return folder

def keys(items): return [x['id'].split()[-1] for x in items]
ALL = {f'{k:04}' for k in range(24)}

def test_a_stream_gives_what_a_dataset_gives(shards):
    first = next(iter(load_stream(f'{shards}/*.tar', 32)))
    assert (first['image'].shape == (3, 32, 32) and first['image'].dtype == torch.float32
            and first['caption'] == 'thing 0' and first['id'].endswith('s-00.tar 0000'))
    assert abs(first['image'][1].mean().item()*255 - 100) < 3
    assert set(keys(load_stream(f'{shards}/*.tar', 32))) == ALL

def test_names_in_braces_with_a_star_and_in_lists(shards):
    braces, star = f'{shards}/s-{{00..03}}.tar', f'{shards}/*.tar'
    assert (shard_names(braces) == shard_names(star) == shard_names([str(p) for p in sorted(shards.iterdir())])
            and len(shard_names(star)) == 4)
    assert shard_names('https://host/a-{8..10}.tar') == [
        'https://host/a-8.tar', 'https://host/a-9.tar', 'https://host/a-10.tar']

def test_each_pass_shows_each_picture_once_in_an_order_that_follows_from_the_seed(shards):
    stream = load_stream(f'{shards}/*.tar', 32)
    two = keys(islice(stream.order(3), 48))
    assert set(two[:24]) == set(two[24:]) == ALL and two[:24] != two[24:] and two[:24] != sorted(two[:24])
    assert two == keys(islice(stream.order(3), 48)) and two != keys(islice(stream.order(4), 48))

def test_the_caption_changes_with_the_seed_and_not_with_the_asking(shards):
    stream = load_stream(f'{shards}/*.tar', 32)
    said = lambda seed: {x['id']: x['caption'] for x in islice(stream.order(seed), 24)}
    assert said(1) == said(1) and len({said(seed)[k] for seed in range(6) for k in list(said(1))[:1]}) == 2

@pytest.mark.parametrize('world', [2, 3, 4])
def test_processes_share_a_stream_without_repeats(shards, world):
    stream = load_stream(f'{shards}/*.tar', 32)
    parts = [keys(islice(stream.order(5, rank, world), 24//world)) for rank in range(world)]
    assert sorted(sum(parts, [])) == sorted(ALL)

def test_workers_share_a_stream_without_repeats(shards):
    loader = DataLoader(load_stream(f'{shards}/*.tar', 32), batch_size=4, num_workers=2)
    assert sorted(k.split()[-1] for b in loader for k in b['id']) == sorted(ALL)

def test_more_workers_than_shards_do_no_harm(shards):
    loader = DataLoader(load_stream(f'{shards}/s-00.tar', 32).order(1), batch_size=3, num_workers=2)
    assert {k.split()[-1] for b in islice(loader, 4) for k in b['id']} == {f'{k:04}' for k in range(6)}

def test_parquet_shards_and_lists_of_captions(tmp_path):
    import pyarrow as pa, pyarrow.parquet as pq
    pq.write_table(pa.table(dict(image=[dict(bytes=jpeg(k), path=None) for k in range(3)],
                                 text=[[f'thing {k}', f'again {k}'] for k in range(3)],
                                 id=['a', 'b', 'c'])), tmp_path/'x.parquet')
    stream = load_stream(tmp_path/'x.parquet', 32)
    assert ([(x['id'], x['caption']) for x in stream] == [('a', 'thing 0'), ('b', 'thing 1'), ('c', 'thing 2')]
            and stream.sample(9).captions(1) == ['thing 1', 'again 1'])

def test_captions_in_json(tmp_path):
    write_shard(tmp_path/'a.tar', {'1': dict(png=jpeg(1), json=b'{"caption": "a thing", "more": 1}')})
    assert [x['caption'] for x in load_stream(tmp_path/'a.tar', 32)] == ['a thing']

@pytest.mark.parametrize('files, urls, error, message', [
    ({}, '{}/*.tar', FileNotFoundError, r'no such shards; give files or addresses that end in \.tar or \.parquet'),
    ({}, '{}/a-{{0..2}}.tar', FileNotFoundError, r'a-0\.tar does not exist: check the numbers'),
    ({}, '{}/pictures.zip', ValueError, 'must all end in'),
    ({}, 'pipe:cat {}/x.tar', FileNotFoundError, 'does not exist'),
    ({}, 'ftp://host/a.tar', ValueError, 'starts with https://'),
    ({'a.tar': b'no tar at all'}, '{}/a.tar', ValueError, r'a\.tar cannot be read .*check that each shard is complete'),
    ({'a.tar': {'1': dict(txt=b'words only')}}, '{}/a.tar', ValueError, 'a picture must be called jpg'),
    ({'a.tar': {'1': dict(jpg=jpeg(1))}}, '{}/a.tar', ValueError, 'its text txt, text, caption or json'),
], ids=str)
def test_what_is_wrong_with_shards_is_said_at_once(tmp_path, files, urls, error, message):
    for name, content in files.items():
        (tmp_path/name).write_bytes(content) if isinstance(content, bytes) else write_shard(tmp_path/name, content)
    with pytest.raises(error, match=message): load_stream(urls.format(tmp_path), 32)

@pytest.mark.parametrize('parts, message', [
    (dict(jpg=b'no picture', txt=b'x'), r'a\.tar 2: cannot be read as a picture'),
    (dict(jpg=jpeg(1), txt=b' \n '), r'a\.tar 2: the caption is empty or missing; fill txt'),
], ids=['picture', 'caption'])
def test_a_bad_sample_is_named(tmp_path, parts, message):
    write_shard(tmp_path/'a.tar', {'1': dict(jpg=jpeg(1), txt=b'x'), '2': parts})
    with pytest.raises(ValueError, match=message): list(load_stream(tmp_path/'a.tar', 32))

# ---------------------------------------------------------------- training

@pytest.fixture
def small(tmp_path, quick_report):
    def make(**changes):
        return DistillConfig(**dict(out=str(tmp_path/'run'), size=32, fc_dim=32, epochs=(2, 2), warmup=3, batch=8,
                                    snapshots=2) | changes)
    return make

def test_a_stream_trains_stops_and_goes_on_bit_for_bit(small, shards, tmp_path):
    settings = dict(data=f'stream:{shards}/*.tar', epoch_pictures=20)
    whole = distill(small(**settings), progress=False)
    assert whole.finished and len(whole.log()['step']) == 2*2*2
    half = distill(
        small(**settings, out=str(tmp_path/'half'), snapshots=8), progress=False,
        callback=lambda run, stage, step, student: os.kill(os.getpid(), signal.SIGINT) if step == 5 else None)
    assert not half.finished
    assert_same_weights(distill(half.folder, progress=False), whole)

def test_a_stream_needs_the_length_of_an_epoch(small, shards):
    with pytest.raises(ValueError, match=r'has no end: say with epoch_pictures'): small(data=f'stream:{shards}/*.tar')

def test_ready_vectors_train_and_draw(small, tmp_path):
    rng, ds, folder = np.random.default_rng(0), load_emoji(size=32), tmp_path/'authors'
    for split, idx in (('train', range(0, 12)), ('test', range(12, 16))):
        (folder/split).mkdir(parents=True); ids = [f'001.Thing/{i}' for i in idx]
        for i, id in zip(idx, ids):
            file = folder/f'images/{id}.jpg'; file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ds.read(i).permute(1, 2, 0).numpy()).save(file)
        (folder/split/'filenames.pickle').write_bytes(pickle.dumps(ids, 2))
        (folder/split/'char-CNN-RNN-embeddings.pickle').write_bytes(
            pickle.dumps([.02*rng.normal(size=(10, 24)).astype('float32') + .5 for _ in idx], 2))
    run = distill(small(data=f'stackgan:{folder}', text='precomputed'), progress=False)
    t2i = TextToImage.from_pretrained(run.folder); state = weights(run)
    assert t2i.encoder.dim == 24 and .4 < state['encoder.mean'].mean() < .6 and .01 < state['encoder.scale'] < .03
    assert [p.size for p in t2i(torch.full((2, 24), .5))] == [(32, 32)]*2
    with pytest.raises(ValueError, match="'precomputed' reads no words"): t2i('a bird')

@pytest.mark.parametrize('data', ['cub:', 'bird:/x', 'nowhere'])
def test_unknown_data_names_what_there_is(small, data):
    with pytest.raises(FileNotFoundError, match=r"is not a folder: use 'emoji-small', 'emoji', a folder with "
                                                r"metadata.csv, cub:PATH, flowers:PATH, stackgan:PATH "
                                                r"or stream:SHARDS"):
        distill(small(data=data), progress=False)
