import json, os, random, shutil, signal
import pytest, torch
from PIL import Image
from sdn_lite.pipeline import BUNDLED, TextToImage
from sdn_lite.stages import distill
from conftest import tree

CAPTIONS = ['a red apple', 'a cat', '', '🍎']

@pytest.fixture(scope='module')
def model(finished): return TextToImage.from_pretrained(str(finished.folder))

@pytest.fixture
def saved(finished, tmp_path): return shutil.copytree(finished.folder/'model', tmp_path/'model')

def pixels(pictures): return [p.tobytes() for p in pictures]

@pytest.mark.parametrize('name', BUNDLED)
def test_bundled_model_draws(name):
    picture = TextToImage.from_pretrained(name)('a red apple')
    assert picture.size == (64, 64) and len(picture.getcolors(1 << 24)) > 50

def test_a_string_gives_a_picture_and_a_list_a_list(model):
    one, many = model('a red apple'), model(CAPTIONS)
    assert isinstance(one, Image.Image) and one.mode == 'RGB' and one.size == (32, 32)
    assert isinstance(many, list) and [p.size for p in many] == [(32, 32)]*4
    assert len(model(('a cat',))) == 1 and model([]) == []

def test_a_caption_always_gives_the_same_picture(model):
    assert pixels(model(CAPTIONS)) == pixels(model(CAPTIONS)) and len(set(pixels(model(CAPTIONS[:3])))) == 3
    alone, together = model.images(['a cat']), model.images(CAPTIONS)[1:2]
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-3)

def test_batches_do_not_change_the_pictures(model):
    torch.testing.assert_close(model.images(CAPTIONS, batch=3), model.images(CAPTIONS), rtol=0, atol=1e-3)

def test_images_are_in_range_and_empty_for_no_captions(model):
    x = model.images(CAPTIONS)
    assert x.shape == (4, 3, 32, 32) and 0 <= x.min() < x.max() <= 1 and model.images([]).shape == (0, 3, 32, 32)

def test_images_of_one_string_are_one_picture(model):
    assert torch.equal(model.images('a cat'), model.images(['a cat']))

@pytest.mark.parametrize('captions, named', [([1], '1'), (['a cat', None], 'None'), (5, '5'), (None, 'None'), ([['a cat']], r"\['a cat'\]"), (b'a cat', '97|b.a cat')])
def test_wrong_type_is_named(model, captions, named):
    with pytest.raises(ValueError, match=rf'captions.*({named}).*use a string or a list of strings'): model(captions)

def test_model_is_frozen(model): assert not model.training and not any(p.requires_grad for p in model.parameters())

@pytest.mark.parametrize('part', ['', 'model'])
def test_run_folder_and_its_model_folder_are_the_same_model(finished, model, part):
    assert pixels(TextToImage.from_pretrained(finished.folder/part)(CAPTIONS)) == pixels(model(CAPTIONS))

def test_saved_model_draws_the_same_pictures(model, tmp_path):
    model.save_pretrained(tmp_path/'copy')
    again = TextToImage.from_pretrained(tmp_path/'copy')
    assert pixels(again(CAPTIONS)) == pixels(model(CAPTIONS)) and again.about == model.about
    again.save_pretrained(tmp_path/'copy2')
    for name in ('config.json', 'model.safetensors'): assert (tmp_path/'copy2'/name).read_bytes() == (tmp_path/'copy'/name).read_bytes()

def test_loading_changes_nothing_in_the_folder(saved):
    before = tree(saved); TextToImage.from_pretrained(saved)('a cat')
    assert tree(saved) == before

@pytest.mark.parametrize('name', ['nope', './nope', '/nowhere/at/all', 'a/b/c', ''])
def test_unknown_name_names_the_choices(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"'{name}'.*{BUNDLED[0]}.*folder|config\.json is missing: a model folder holds"): TextToImage.from_pretrained(name)

@pytest.mark.parametrize('name', ['user/nope', 'runs/nope'])
def test_name_that_the_hub_does_not_give_is_said(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"model '{name}' could not be fetched from the Hub .*check name and network, or use '{BUNDLED[0]}'.*or a folder"):
        TextToImage.from_pretrained(name, cache_dir=tmp_path, local_files_only=True)

@pytest.mark.parametrize('name', [None, 7])
def test_name_of_a_wrong_type_is_said(name):
    with pytest.raises((ValueError, FileNotFoundError), match=rf'model.*{name}'): TextToImage.from_pretrained(name)

@pytest.mark.parametrize('file', ['config.json', 'model.safetensors'])
def test_missing_file_is_named(saved, file):
    (saved/file).unlink()
    with pytest.raises(FileNotFoundError, match=rf'{file} is missing: a model folder holds config\.json and model\.safetensors'): TextToImage.from_pretrained(saved)

@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b[:5], lambda b: b[:2000], lambda b: b[:-1000], lambda b: random.Random(0).randbytes(len(b)), lambda b: b'\xff'*len(b)],
                         ids=['no bytes', 'five bytes', 'start', 'truncated', 'random', 'ones'])
def test_damaged_weights_are_named(saved, damage):
    file = saved/'model.safetensors'; file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r'model\.safetensors is damaged .*copy it again, or train again'): TextToImage.from_pretrained(saved)

@pytest.mark.parametrize('content', ['', '{', '[]', '{}', '{"text": {}}', 'ü'.encode('latin-1')], ids=repr)
def test_damaged_config_is_named(saved, content):
    (saved/'config.json').write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r'config\.json is damaged or no model .*copy it again'): TextToImage.from_pretrained(saved)

@pytest.mark.parametrize('side, key, value', [('student', 'size', 64), ('student', 'size', 33), ('student', 'fc_dim', 64), ('student', 'text_dim', 8), ('student', 'blocks', [[8]]), ('student', 'extra', 1),
                                              ('text', 'dim', 8), ('text', 'width', 8), ('text', 'width', 'x')])
def test_config_of_another_model_is_refused(saved, side, key, value):
    config = json.loads((saved/'config.json').read_text()); config[side][key] = value
    (saved/'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r'model\.safetensors does not fit .*config\.json.*take both files from one model'): TextToImage.from_pretrained(saved)

@pytest.mark.parametrize('checkpoint', [True, False], ids=['stopped', 'killed before its first checkpoint'])
def test_unfinished_run_says_how_to_go_on(tiny, checkpoint):
    class Killed(BaseException): pass
    def stop(*_):
        if checkpoint: os.kill(os.getpid(), signal.SIGINT)
        else: raise Killed
    try: distill(tiny(), progress=False, callback=stop)
    except Killed: pass
    with pytest.raises(FileNotFoundError, match=rf'{tiny().out} is a run that is not finished: go on with sdn_train --resume {tiny().out}'): TextToImage.from_pretrained(tiny().out)
