import json, os, random, shutil, signal
import pytest, torch
from PIL import Image
from sdn_lite.pipeline import BUNDLED, TextToImage
from sdn_lite.card import OURS
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

@pytest.mark.parametrize('captions, named', [
    ([1], '1'), (['a cat', None], 'None'), (5, '5'), (None, 'None'), ([['a cat']], r"\['a cat'\]"),
    (b'a cat', '97|b.a cat'),
])
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
    for name in ('config.json', 'model.safetensors'):
        assert (tmp_path/'copy2'/name).read_bytes() == (tmp_path/'copy'/name).read_bytes()

def test_loading_changes_nothing_in_the_folder(saved):
    before = tree(saved); TextToImage.from_pretrained(saved)('a cat')
    assert tree(saved) == before

@pytest.mark.parametrize('name', ['nope', './nope', '/nowhere/at/all', 'a/b/c', ''])
def test_unknown_name_names_the_choices(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError,
                       match=rf"'{name}'.*{BUNDLED[0]}.*folder|config\.json is missing: a model folder holds"):
        TextToImage.from_pretrained(name)

@pytest.mark.parametrize('name', ['user/nope', 'runs/nope'])
def test_name_that_the_hub_does_not_give_is_said(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"model '{name}' could not be fetched from the Hub .*"
                                                rf"check name and network, or use '{BUNDLED[0]}'.*or a folder"):
        TextToImage.from_pretrained(name, cache_dir=tmp_path, local_files_only=True)

@pytest.mark.parametrize('name', [None, 7])
def test_name_of_a_wrong_type_is_said(name):
    with pytest.raises((ValueError, FileNotFoundError), match=rf'model.*{name}'): TextToImage.from_pretrained(name)

@pytest.mark.parametrize('file', ['config.json', 'model.safetensors'])
def test_missing_file_is_named(saved, file):
    (saved/file).unlink()
    with pytest.raises(FileNotFoundError,
                       match=rf'{file} is missing: a model folder holds config\.json and model\.safetensors'):
        TextToImage.from_pretrained(saved)

@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b[:5], lambda b: b[:2000], lambda b: b[:-1000],
                                    lambda b: random.Random(0).randbytes(len(b)), lambda b: b'\xff'*len(b)],
                         ids=['no bytes', 'five bytes', 'start', 'truncated', 'random', 'ones'])
def test_damaged_weights_are_named(saved, damage):
    file = saved/'model.safetensors'; file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r'model\.safetensors is damaged .*copy it again, or train again'):
        TextToImage.from_pretrained(saved)

@pytest.mark.parametrize('content', ['', '{', '[]', '{}', '{"text": {}}', 'ü'.encode('latin-1')], ids=repr)
def test_damaged_config_is_named(saved, content):
    (saved/'config.json').write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r'config\.json is damaged or no model .*copy it again'):
        TextToImage.from_pretrained(saved)

@pytest.mark.parametrize('side, key, value', [
    ('student', 'size', 64), ('student', 'size', 33), ('student', 'fc_dim', 64), ('student', 'text_dim', 8),
    ('student', 'blocks', [[8]]), ('student', 'extra', 1),
    ('text', 'dim', 8), ('text', 'width', 8), ('text', 'width', 'x'),
])
def test_config_of_another_model_is_refused(saved, side, key, value):
    config = json.loads((saved/'config.json').read_text()); config[side][key] = value
    (saved/'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError,
                       match=r'model\.safetensors does not fit .*config\.json.*take both files from one model'):
        TextToImage.from_pretrained(saved)

@pytest.mark.parametrize('checkpoint', [True, False], ids=['stopped', 'killed before its first checkpoint'])
def test_unfinished_run_says_how_to_go_on(tiny, checkpoint):
    class Killed(BaseException): pass
    def stop(*_):
        if checkpoint: os.kill(os.getpid(), signal.SIGINT)
        else: raise Killed
    try: distill(tiny(), progress=False, callback=stop)
    except Killed: pass
    with pytest.raises(FileNotFoundError, match=rf'{tiny().out} is a run that is not finished: '
                                                rf'go on with sdn_train --resume {tiny().out}'):
        TextToImage.from_pretrained(tiny().out)

# cards and sharing

def test_a_run_writes_the_card_of_its_model(finished):
    from huggingface_hub import ModelCard
    card = ModelCard.load(finished.folder/'model/README.md')
    about = json.loads((finished.folder/'model/config.json').read_text())
    assert (card.data.license == 'unknown' and card.data.pipeline_tag == 'text-to-image'
            and card.data.eval_results is None)
    assert (about['pictures'] == 22 and about['seconds'] >= 0 and about['settings']['epochs'] == [2, 2]
            and '| batch | 8 |' in card.text and 'It has seen 22 pictures' in card.text)
    assert str(finished.folder.parent) not in card.text            # no path of the machine

def test_seconds_count_every_step(finished):
    log = finished.log(); assert finished.seconds(22/3) == pytest.approx(sum(22/3/v for v in log['images_per_second']))

def test_the_card_says_how_to_load_and_that_works(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); model.save_pretrained('mine')
    lines = ((tmp_path/'mine/README.md').read_text(encoding='utf-8').split('```python\n')[1].split('```')[0]
             .replace('path/to/this/folder', 'mine'))
    assert len(lines.strip().splitlines()) == 3
    exec(lines, {}); assert Image.open('apple.png').size == (32, 32)

METRICS = dict(data='emoji-small', network='vgg19_lite', judge='efficientnet-lite0', candidates=459, notes=['A note.'],
               examples=dict(unseen=[dict(caption='<script>alert(1)</script> | `x` [y](z)', rank='worst')]),
               splits=dict(unseen=dict(n=45, r1_of_100=.25, r1=.1, r10=.4,
                                       inception_score=None, fid=12.5, psnr=None, ssim=.4)))

def test_figures_travel_with_the_model_into_its_card(model, tmp_path):
    from huggingface_hub import ModelCard
    again = TextToImage(model.encoder, model.student, model.about); again.metrics = METRICS
    again.save_pretrained(tmp_path/'a'); loaded = TextToImage.from_pretrained(tmp_path/'a')
    assert loaded.metrics == METRICS
    loaded.save_pretrained(tmp_path/'b'); assert tree(tmp_path/'a') == tree(tmp_path/'b')
    card = ModelCard.load(tmp_path/'b/README.md')
    assert ({(r.metric_type, r.metric_value, r.dataset_split) for r in card.data.eval_results}
            == {(k, v, 'unseen') for k, v in METRICS['splits']['unseen'].items() if k != 'n' and v is not None})
    assert '<script>' not in card.text and 'alert(1)' in card.text and 'A note.' in card.text

@pytest.mark.parametrize('content', ['', '[]', '{}', '{"splits": 1}', '{'])
def test_damaged_metrics_are_left_out(saved, content, tmp_path):
    (saved/'metrics.json').write_text(content)
    model = TextToImage.from_pretrained(saved); assert model.metrics is None
    model.save_pretrained(tmp_path/'again')
    assert 'Not measured yet' in (tmp_path/'again/README.md').read_text(encoding='utf-8')

def test_saving_again_renews_our_card_and_keeps_yours(model, tmp_path):
    model.save_pretrained(tmp_path/'m'); file = tmp_path/'m/README.md'; ours = file.read_text(encoding='utf-8')
    file.write_text(ours + 'old', encoding='utf-8'); model.save_pretrained(tmp_path/'m')
    assert file.read_text(encoding='utf-8') == ours
    mine = ours.replace(OURS, '') + 'By me.'
    file.write_text(mine, encoding='utf-8'); model.save_pretrained(tmp_path/'m')
    assert file.read_text(encoding='utf-8') == mine

def test_generate_model_card_is_the_card(model, tmp_path):
    model.save_pretrained(tmp_path/'m')
    assert str(model.generate_model_card()) == (tmp_path/'m/README.md').read_text(encoding='utf-8')

@pytest.mark.parametrize('given, named', [('somebody/apples', 'somebody/apples'), ('apples', 'your-name/apples')])
def test_push_to_hub_uploads_a_whole_model(model, tmp_path, monkeypatch, given, named):
    "The Hub's side is played by a class that copies what it is sent; everything up to there is real."
    import huggingface_hub.hub_mixin as hub
    sent = {}
    class Api:
        def __init__(self, token=None): sent['token'] = token
        def create_repo(self, repo_id, private=None, exist_ok=False):
            sent['private'] = private
            return type('Url', (), dict(repo_id=repo_id if '/' in repo_id else f'me/{repo_id}'))
        def upload_folder(self, folder_path, **kwargs):
            sent.update(kwargs); shutil.copytree(folder_path, tmp_path/'hub')
            return 'https://there'
    monkeypatch.setattr(hub, 'HfApi', Api)
    assert model.push_to_hub(given, private=True, token='secret', commit_message='first') == 'https://there'
    assert (sent['repo_id'].endswith('apples') and sent['private'] and sent['token'] == 'secret'
            and sent['commit_message'] == 'first')
    assert sorted(f.name for f in (tmp_path/'hub').iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    assert pixels(TextToImage.from_pretrained(tmp_path/'hub')(CAPTIONS)) == pixels(model(CAPTIONS))
    card = (tmp_path/'hub/README.md').read_text(encoding='utf-8')
    assert f"from_pretrained('{named}')" in card and 'secret' not in card

def test_save_pretrained_can_push(model, tmp_path, monkeypatch):
    pushed = {}
    monkeypatch.setattr(TextToImage, 'push_to_hub', lambda self, repo_id, **kw: pushed.update(repo_id=repo_id))
    model.save_pretrained(tmp_path/'apples', push_to_hub=True, repo_id='somebody/apples')
    assert pushed == dict(repo_id='somebody/apples')

def test_a_model_from_the_hub(model, tmp_path, monkeypatch):
    "Downloads are played by a function that gives files of a folder."
    import huggingface_hub
    model.save_pretrained(tmp_path/'there'); asked = []
    def download(repo, file, **kwargs):
        asked.append((repo, file, kwargs['revision']))
        return str(tmp_path/'there'/file)
    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', download)
    again = TextToImage.from_pretrained('somebody/apples', revision='v1')
    assert (pixels(again(CAPTIONS)) == pixels(model(CAPTIONS))
            and asked == [('somebody/apples', f, 'v1') for f in ('config.json', 'model.safetensors')])
