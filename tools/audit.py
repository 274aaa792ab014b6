#!/usr/bin/env python3
"""Is a known vulnerability in what we install? `make audit`.

Asks PyPI's database, through pip-audit in an environment of its own (.venv/audit), about every package that
sdn_lite and its extras brought into .venv, in exactly the installed version. Ends with 0 if all were checked and
none is known to be vulnerable, with 1 if one is, and with 2 if the database could not be asked: then nothing is
known, and that is not a pass.
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

def verdict(out, err, asked):
    """Exit code and words for what pip-audit printed. It ends with 0 even where it could check nothing, so we read
    its table."""
    elsewhere = 'Run `make audit` where PyPI itself can be reached.'
    try: rows = json.loads(out)['dependencies']
    except ValueError:
        return 2, ('The database of vulnerabilities could not be asked, so nothing was checked '
                   f'({(err.strip().splitlines() or ["no answer"])[-1][:300]}). {elsewhere}')
    bad, skipped = [d for d in rows if d.get('vulns')], [d['name'] for d in rows if 'skip_reason' in d]
    lines = [f"{d['name']} {d['version']}: {' '.join([v['id'], *v.get('aliases', ())])}, "
             f"repaired in {', '.join(v['fix_versions']) or 'no version yet'}" for d in bad for v in d['vulns']]
    lines.append(f'{len(rows) - len(skipped)} of {asked} packages checked, {len(bad)} with known vulnerabilities.')
    if skipped:
        lines.append(f"The database didn't answer for {len(skipped)}: "
                     f"{', '.join(skipped[:10])}{', …' if len(skipped) > 10 else ''}. {elsewhere}")
    return 1 if bad else 2 if len(rows) - len(skipped) < asked else 0, '\n'.join(lines)

def main():
    packages, env = installed('sdn_lite'), Path(sys.prefix)/'audit'
    bin = env/('Scripts' if sys.platform == 'win32' else 'bin')
    if not bin.is_dir(): subprocess.run([sys.executable, '-m', 'venv', env], check=True)
    subprocess.run([bin/'python', '-m', 'pip', 'install', '-q', '--upgrade', 'pip-audit'], check=True)
    with tempfile.TemporaryDirectory() as tmp:
        file = Path(tmp)/'requirements.txt'
        file.write_text(''.join(f'{n}=={v}\n' for n, v in sorted(packages.items())))
        r = subprocess.run([bin/'pip-audit', '-r', file, '--no-deps', '--disable-pip', '--format', 'json',
                            '--progress-spinner', 'off'], capture_output=True, text=True)
    code, said = verdict(r.stdout, r.stderr, len(packages)); print(said)
    return code

if __name__ == '__main__': sys.exit(main())
