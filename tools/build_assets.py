#!/usr/bin/env python3
"""Rebuild the files in sdn_lite/assets/ from their sources.

    python tools/build_assets.py emoji      # needs npm; about a minute
    python tools/build_assets.py teacher    # trains vgg19_lite on the bundled emoji
    python tools/build_assets.py text       # trains char-cnn-rnn against that teacher
    python tools/build_assets.py words      # asks MiniLM for its word list; in an environment of its own:
                                              pip install 'sdn_lite[text]' 'model2vec[distill]'
    python tools/build_assets.py model      # trains emoji-small, as `make demo` does
    python tools/build_assets.py emoji-model  # trains emoji, on all pictures: about 90 minutes;
                                              goes on where it was stopped
    python tools/build_assets.py nearest    # what the teacher sees in the pictures that emoji was trained on; seconds
    python tools/build_assets.py cards      # judges the models as they are, and writes their cards
    python tools/build_assets.py all        # everything but the cards, in this order; the models are judged at the end
"""
import csv, json, subprocess, sys, tarfile, tempfile
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent/'sdn_lite'/'assets'
PICTURES, NAMES = 'emoji-datasource-google@16.0.0', 'emojibase-data@17.0.0'
COLUMNS = 64    # tiles in a row of the sheet


def npm_pack(package, into):
    "Fetch `package` from the npm registry and unpack it; returns its folder."
    name = subprocess.run(['npm', 'pack', '--silent', package], cwd=into, check=True,
                          capture_output=True, text=True).stdout.split()[-1]
    folder = Path(into)/package.split('@')[0]
    with tarfile.open(Path(into)/name) as t: t.extractall(folder, filter='data')
    return folder/'package'


def plain(hexcode):
    "An id: the code points without the invisible 'draw as a picture' mark."
    return '-'.join(p for p in hexcode.upper().split('-') if p != 'FE0F')


def kin(hexcode):
    "The id without skin tone, gender and direction: what all variants of one emoji share."
    out = [p for p in plain(hexcode).split('-') if p not in {f'1F3F{c}' for c in 'BCDEF'}]
    out = ['1F9D1' if p in ('1F468', '1F469') else p for p in out]   # man, woman -> person
    for mark in ('2640', '2642', '27A1'):                            # female, male, facing right
        if mark in out[1:]: i = out.index(mark, 1); out = out[:i - (out[i-1] == '200D')] + out[i+1:]
    return '-'.join(out)


def build_emoji():
    import numpy as np
    from PIL import Image
    with tempfile.TemporaryDirectory() as tmp:
        pics, names = npm_pack(PICTURES, tmp)/'img/google/64', npm_pack(NAMES, tmp)
        groups = json.loads((names/'meta/groups.json').read_text())
        pic = {plain(f.stem): f for f in pics.iterdir()}
        rows, tiles = [], []
        for e in json.loads((names/'en/data.json').read_text()):
            if 'group' not in e: continue                            # regional indicators: half a flag each
            for form in [e] + e.get('skins', []):
                id = plain(form['hexcode'])
                if id not in pic: continue                           # newer than the pictures
                tone = form.get('tone', [])
                rows.append(dict(id=id, label=e['label'], tags='|'.join(e.get('tags', [])),
                    group=groups['groups'][str(e['group'])], subgroup=groups['subgroups'][str(e['subgroup'])],
                    base=plain(e['hexcode']), family=kin(e['hexcode']),
                    tone='|'.join(map(str, tone if isinstance(tone, list) else [tone]))))
                img = Image.open(pic[id]).convert('RGBA')
                white = Image.new('RGBA', img.size, 'white'); white.alpha_composite(img)
                # Even values only: at most 1 of 255 off, and the sheet is a sixth smaller
                a = np.asarray(white.convert('RGB')).astype(int)
                tiles.append(np.where(a == 255, 255, (a + 1)//2*2).clip(0, 255).astype(np.uint8))
    tiles = np.stack(tiles)
    merge_twins(rows, tiles)
    n, r = len(tiles), -(-len(tiles)//COLUMNS)
    sheet = np.full((r*COLUMNS, 64, 64, 3), 255, np.uint8); sheet[:n] = tiles
    sheet = sheet.reshape(r, COLUMNS, 64, 64, 3).transpose(0, 2, 1, 3, 4).reshape(r*64, COLUMNS*64, 3)
    Image.fromarray(sheet).save(ASSETS/'emoji.webp', lossless=True, quality=100, method=6)
    with open(ASSETS/'emoji.csv', 'w', newline='', encoding='utf-8') as f:
        w = csv.DictWriter(f, rows[0], lineterminator='\n'); w.writeheader(); w.writerows(rows)
    print(f'{n} pictures, {(ASSETS/"emoji.webp").stat().st_size/1e6:.2f} MB')


def merge_twins(rows, tiles):
    """Emoji of different families that are drawn (nearly) alike, such as the flags of Norway and Svalbard, become
    one family."""
    import numpy as np
    small = tiles.reshape(len(tiles), 16, 4, 16, 4, 3).mean((2, 4)).reshape(len(tiles), -1)
    full, parent = tiles.reshape(len(tiles), -1), {}
    def root(f):
        while parent.get(f, f) != f: f = parent[f]
        return f
    for i in range(len(rows)):
        near = np.flatnonzero(np.abs(small[i+1:] - small[i]).mean(1) < 1.5) + i + 1
        for j in near:
            a, b = root(rows[i]['family']), root(rows[j]['family'])
            if a != b and np.abs(full[i].astype(int) - full[j]).mean() < 1.5:
                parent[max(a, b)] = min(a, b)
                print('twins:', rows[i]['label'], '|', rows[j]['label'])
    for r in rows: r['family'] = root(r['family'])


def save_half(state, file):
    "Write weights as 16-bit numbers: half the size, and the pictures stay the same to the eye."
    from safetensors.torch import save_file
    save_file({k: v.half().contiguous() for k, v in state.items()}, file)
    file.chmod(0o644); print(f'{file.name}: {file.stat().st_size/1e6:.2f} MB')


def build_teacher():
    from sdn_lite.data import load_emoji
    from sdn_lite.teacher import train_teacher
    teacher, heads, _ = train_teacher(load_emoji('all'))
    save_half(teacher.state_dict() | {
        f'heads.{i}.{k}': v for i, h in enumerate(heads) for k, v in h.state_dict().items()
    }, ASSETS/'vgg19_lite.safetensors')


def build_text():
    import torch
    from sdn_lite.data import load_emoji
    from sdn_lite.teacher import get_teacher
    from sdn_lite.text import train_text
    ds, teacher = load_emoji('all'), get_teacher()
    with torch.no_grad():
        x = torch.cat([teacher(ds.images(range(k, min(k + 128, len(ds)))))['pool5'].flatten(1)
                       for k in range(0, len(ds), 128)])
    enc, _ = train_text(x, [ds.captions(i) for i in range(len(ds))])
    save_half(enc.state_dict(), ASSETS/'char_cnn_rnn.safetensors')


def build_words():
    """MiniLM's vector of every entry in its word list, 256 main directions, 8-bit numbers. The rarer the word,
    the more it counts (Arora et al. 2017)."""
    import shutil
    from model2vec.distill import distill
    from sdn_lite.text import find_minilm
    with tempfile.TemporaryDirectory() as tmp:
        distill(str(find_minilm()), pca_dims=256, sif_coefficient=1e-4, quantize_to='int8',
                device='cpu').save_pretrained(tmp)
        # not a path of this machine
        about = json.loads((Path(tmp)/'config.json').read_text()) | dict(
            tokenizer_name='sentence-transformers/all-MiniLM-L6-v2')
        folder = ASSETS/'static-minilm'; folder.mkdir(exist_ok=True)
        for f in ('model.safetensors', 'tokenizer.json'): shutil.copyfile(Path(tmp)/f, folder/f)
        (folder/'config.json').write_text(json.dumps(about, indent=1) + '\n')
    print(f'static-minilm: {(folder/"model.safetensors").stat().st_size/1e6:.2f} MB')


def bundle(model, name):
    "Write a `TextToImage` into the package, with 16-bit numbers."
    import shutil
    with tempfile.TemporaryDirectory() as tmp:
        model.save_pretrained(tmp); (ASSETS/name).mkdir(exist_ok=True)
        save_half(model.state_dict(), ASSETS/name/'model.safetensors')
        shutil.copy(Path(tmp)/'config.json', ASSETS/name/'config.json')
    card(name)


def card(name):
    "Judge a bundled model, and write its figures and its card beside it."
    import shutil
    from sdn_lite.metrics import evaluate
    from sdn_lite.pipeline import TextToImage
    model = TextToImage.from_pretrained(name); model.metrics = evaluate(name, network='efficientnet-lite0').as_dict()
    with tempfile.TemporaryDirectory() as tmp:
        model.save_pretrained(tmp, model_card_kwargs=dict(model_id=name))
        for file in ('README.md', 'metrics.json'): shutil.copy(Path(tmp)/file, ASSETS/name/file)


def build_cards():
    "The cards alone, of the models as they are."
    from sdn_lite.pipeline import BUNDLED
    for name in BUNDLED: card(name)


def build_model():
    "Exactly what `make demo` trains."
    from sdn_lite.pipeline import TextToImage
    from sdn_lite.stages import DistillConfig, distill
    with tempfile.TemporaryDirectory() as tmp:
        run = distill(DistillConfig(out=f'{tmp}/demo'))
        bundle(TextToImage.from_pretrained(run.folder), 'emoji-small'); front_picture(run)


# of the released model
EMOJI = dict(data='emoji', text='static', fc_dim=1024, batch=8, lr=7e-4, warmup=3000, epochs=(20, 105))

def build_emoji_model(folder='runs/emoji'):
    "The released model. A run that was stopped goes on."
    from sdn_lite.pipeline import TextToImage
    from sdn_lite.stages import DistillConfig, distill
    run = distill(DistillConfig(out=folder, **EMOJI), resume=Path(folder, 'config.json').is_file())
    bundle(TextToImage.from_pretrained(run.folder), 'emoji'); build_nearest()


def build_nearest():
    "What the teacher sees in the training pictures of `emoji`, for the Playground on the classroom page."
    from sdn_lite.data import load_emoji
    from sdn_lite.widgets import Nearest
    Nearest(load_emoji('all')).save(ASSETS/'emoji/nearest.safetensors')


def front_picture(run, n=9):
    "The picture of the front page: every ninth part of the training captions, not a choice of the best."
    import matplotlib.pyplot as plt, textwrap, torch
    from sdn_lite.data import load_emoji
    from sdn_lite.text import get_text_encoder
    ds, enc = load_emoji(), get_text_encoder()
    idx = [(2*k + 1)*len(ds)//(2*n) for k in range(n)]
    with torch.no_grad():
        rows = {'real': ds.images(idx), **{name: s(enc([ds[i]['caption'] for i in idx])).clamp(0, 1)
                                           for name, s in run.students().items()}}
    fig, axs = plt.subplots(3, n, figsize=(n, 3.7), layout='constrained')
    for r, (name, pics) in enumerate(rows.items()):
        for ax, pic in zip(axs[r], pics):
            ax.imshow(pic.permute(1, 2, 0).numpy())
            ax.set_xticks([]); ax.set_yticks([]); ax.spines[:].set_visible(False)
        axs[r, 0].set_ylabel(name)
    for ax, i in zip(axs[0], idx): ax.set_title('\n'.join(textwrap.wrap(ds[i]['caption'], 13)), fontsize=8)
    (ASSETS.parent.parent/'nbs/images').mkdir(exist_ok=True)
    fig.savefig(ASSETS.parent.parent/'nbs/images/drawn.png', dpi=100); plt.close(fig)


if __name__ == '__main__':
    jobs = dict(emoji=build_emoji, teacher=build_teacher, text=build_text, words=build_words, model=build_model)
    jobs |= {'emoji-model': build_emoji_model, 'nearest': build_nearest, 'cards': build_cards}
    if len(sys.argv) != 2 or sys.argv[1] not in [*jobs, 'all']: sys.exit(__doc__)
    for name in list(jobs)[:-2] if sys.argv[1] == 'all' else [sys.argv[1]]: jobs[name]()
