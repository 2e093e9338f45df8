"""What the notebooks import: one package for each step of the pipeline, and what the steps share.

A package imports only from those below it; `tests/test_packages.py` holds this map against the folders.

    __main__    the command line
    commands    what each command does
    pipeline    the runner: which steps are out of date, and their execution
    report      one HTML page from the executed notebooks
    compare/    07_compare: runs side by side, ensembles
    tune/       06_tune: the search space, the study, the search
    evaluate/   04_evaluate and 05_gradcam: predictions, mistakes, Grad-CAM
    train/      03_train: augmentation, batches, the training
    clean/      02_clean: the manifest, duplicates, label issues, splits, the review
    figures/    the figures of all steps, and their style
    download/   01_download: sources of photos, archives, the synthetic sample
    networks/   backbones, heads, weights and the device
    photos/     files and labels, decoding, image quality
    core/       parameters, steps, cache, files and tables
"""
