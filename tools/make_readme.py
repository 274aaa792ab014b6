#!/usr/bin/env python3
"""Write README.md from nbs/index.ipynb.

    python tools/make_readme.py            # write it
    python tools/make_readme.py --check    # say whether it is up to date; exit 1 if not

Markdown cells are taken as they are; code cells become ```python blocks with their text output.
"""
import json, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def readme()->str:
    parts = ['<!-- Made from nbs/index.ipynb by tools/make_readme.py; edit the notebook. -->']
    for cell in json.loads((ROOT/'nbs'/'index.ipynb').read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source']).strip()
        if cell['cell_type'] == 'markdown': parts.append(source)
        elif not source.startswith('#| hide'):
            parts.append(f'```python\n{source}\n```')
            text = ''.join(''.join(o.get('text', o.get('data', {}).get('text/plain', '')))
                           for o in cell['outputs']).strip()
            if text: parts.append('\n'.join('    ' + line for line in text.splitlines()))
    # The notebook lies in nbs/ and README.md above it, so relative links change
    return re.sub(r'\]\((?!https?:|#)', '](nbs/', '\n\n'.join(parts)) + '\n'


if __name__ == '__main__':
    file, text = ROOT/'README.md', readme()
    if '--check' not in sys.argv: file.write_text(text, encoding='utf-8')
    elif file.read_text(encoding='utf-8') != text:
        sys.exit('README.md differs from nbs/index.ipynb: run python tools/make_readme.py')
