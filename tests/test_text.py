import pytest, torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sdn_lite.data import ASSETS
from sdn_lite.text import CharCnnRnn, get_text_encoder, joint_embedding_loss, plain, text_vectors

STRINGS = {'empty': '', 'one letter': 'a', 'blank': '  \t ', 'newline': 'a red\napple', 'long': 'apple '*1667, 'one long word': 'x'*10_000, 'Cyrillic': 'красное яблоко',
           'Chinese': '红苹果', 'accents': 'pâté', 'emoji': '🍎🍏', 'joined emoji': '👩🏽‍🚀', 'control': '\x00\x07\x1b[0m\x7f', 'right to left': '\u202eتفاحة', 'lone surrogate': '\ud83c'}

@pytest.mark.parametrize('text', STRINGS.values(), ids=STRINGS)
def test_any_string_gives_a_finite_vector(encoder, text):
    z = encoder([text])
    assert z.shape == (1, encoder.dim) and z.isfinite().all() and torch.equal(encoder(text), z)

def test_vector_does_not_depend_on_the_other_captions(encoder):
    texts = list(STRINGS.values())
    alone = torch.cat([encoder([t]) for t in texts])
    torch.testing.assert_close(encoder(texts), alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder(texts[::-1]).flip(0), alone, rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize('text, same', [('🍎', 'red apple'), ('Red  APPLE', 'red apple'), ('pâté', 'pate'), (' a\ncat ', 'a cat')])
def test_spellings_of_one_caption_have_one_vector(encoder, text, same):
    assert plain(text) == same and torch.equal(encoder(text), encoder(same))

def test_only_the_first_128_characters_count(encoder):
    start = ('a red apple ' * 11)[:128]
    assert torch.equal(encoder(start + 'cat'), encoder(start + 'dog'))
    assert not torch.equal(encoder(start[:100] + 'cat'), encoder(start[:100] + 'dog'))

def test_different_captions_have_different_vectors(encoder):
    z = encoder(['a red apple', 'a green apple', 'a cat'])
    assert (torch.cdist(z, z) + torch.eye(3)*9).min() > 1

def test_encoder_is_frozen(encoder): assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())

def test_random_encoder_differs_from_the_trained_one(encoder):
    assert not torch.equal(get_text_encoder(weights=None)('a cat'), encoder('a cat'))

@pytest.mark.parametrize('name', ['bert', '', 'nowhere.safetensors'])
def test_unknown_encoder_names_the_choices(name):
    with pytest.raises(ValueError, match=rf"text encoder '{name}' is unknown: use one of 'char-cnn-rnn', or the path of a \.safetensors file"): get_text_encoder(name)

@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b[:1000], lambda b: b[:-100], lambda b: b'{}' + b], ids=['no bytes', 'header only', 'truncated', 'shifted'])
def test_damaged_encoder_file_is_named(tmp_path, damage):
    file = tmp_path/'mine.safetensors'; file.write_bytes(damage((ASSETS/'char_cnn_rnn.safetensors').read_bytes()))
    with pytest.raises(ValueError, match=r'mine\.safetensors is damaged or no char-CNN-RNN .*save_file'): get_text_encoder(str(file))

def test_file_of_another_network_is_refused(tmp_path):
    save_file({'out.weight': torch.zeros(4, 4)}, tmp_path/'other.safetensors')
    with pytest.raises(ValueError, match=r'other\.safetensors is damaged or no char-CNN-RNN'): get_text_encoder(tmp_path/'other.safetensors')

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
