#!/usr/bin/env python3
"""Is a known vulnerability in what we install? `make audit`.

Asks PyPI's database, through pip-audit in an environment of its own (.venv/audit), about every package that sdn_lite and its extras
brought into .venv, in exactly the installed version. Ends with 0 if all were checked and none is known to be vulnerable, with 1 if one is,
and with 2 if the database could not be asked: then nothing is known, and that is not a pass.
"""
import importlib.metadata as meta, json, re, subprocess, sys, tempfile
from pathlib import Path

def plain(name): return re.sub(r'[-_.]+', '-', name).lower()

def installed(root):
    "{name: version} of everything that `root` requires, directly or not, and that is installed."
    found, todo = {}, [root]
    while todo:
        try: d = meta.distribution(todo.pop())
        except meta.PackageNotFoundError: continue           # an extra that wasn't asked for, or of another system
        name = plain(d.metadata['Name'])
        if name in found: continue
        found[name] = d.version.partition('+')[0]            # 2.4.0+cpu is 2.4.0
        todo += [re.match(r'[\w.-]+', r)[0] for r in d.requires or ()]
    del found[plain(root)]                                   # our own code is not on PyPI's list
    return found

def main():
    packages, env = installed('sdn_lite'), Path(sys.prefix)/'audit'
    bin = env/('Scripts' if sys.platform == 'win32' else 'bin')
    if not bin.is_dir(): subprocess.run([sys.executable, '-m', 'venv', env], check=True)
    subprocess.run([bin/'python', '-m', 'pip', 'install', '-q', '--upgrade', 'pip-audit'], check=True)
    with tempfile.TemporaryDirectory() as tmp:
        file = Path(tmp)/'requirements.txt'; file.write_text(''.join(f'{n}=={v}\n' for n, v in sorted(packages.items())))
        r = subprocess.run([bin/'pip-audit', '-r', file, '--no-deps', '--disable-pip', '--format', 'json', '--progress-spinner', 'off'], capture_output=True, text=True)
    try: rows = json.loads(r.stdout)['dependencies']
    except ValueError: print(f'The database of vulnerabilities could not be asked: {(r.stderr.strip().splitlines() or ["no answer"])[-1][:300]}\nNothing was checked. Run `make audit` where PyPI itself can be reached.'); return 2
    for d in rows:
        for v in d.get('vulns', ()): print(f"{d['name']} {d['version']}: {v['id']} {' '.join(v.get('aliases', ()))}, repaired in {', '.join(v['fix_versions']) or 'no version yet'}")
    skipped, bad = [d['name'] for d in rows if 'skip_reason' in d], [d for d in rows if d.get('vulns')]
    print(f'{len(rows) - len(skipped)} of {len(packages)} packages checked, {len(bad)} with known vulnerabilities.')
    if skipped: print(f"The database didn't answer for {len(skipped)}: {', '.join(skipped[:10])}{', …' if len(skipped) > 10 else ''}. Run `make audit` where PyPI itself can be reached.")
    return 1 if bad else 2 if skipped else 0

if __name__ == '__main__': sys.exit(main())
