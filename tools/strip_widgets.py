"Take widgets' live views out of a saved notebook: without their kernel they would be an error on the page."
import nbformat, sys
for file in sys.argv[1:]:
    nb = nbformat.read(file, 4); nb.metadata.pop('widgets', None)
    for cell in nb.cells:
        for o in cell.get('outputs', []): o.get('data', {}).pop('application/vnd.jupyter.widget-view+json', None)
    nbformat.write(nb, file)
