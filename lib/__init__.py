"""The package behind the notebooks: a subpackage for each step of the pipeline, and shared modules.

A module imports only from those below it. `tests/test_packages.py` checks this list.

    __main__    the command line
    commands    the commands
    check       what a run would read, before anything runs
    pipeline    the runner: executes the steps that are out of date
    report      the HTML page of a run
    hosted      the set-up on Colab and Kaggle
    prerequisites  the files of a user, before the first step
    compare/    07_compare: runs side by side, ensembles
    tune/       06_tune: the search space, the study, the search
    evaluate/   04_evaluate and 05_gradcam: predictions, mistakes, Grad-CAM
    train/      03_train: augmentation, batches, the training in a process or several
    clean/      02_clean: the manifest, duplicates, label issues, splits, the review
    figures/    the figures of all steps, and their style
    download/   01_download: sources of photos, archives, the synthetic sample
    networks/   backbones, heads, weights and the device
    photos/     files and labels, decoding, image quality
    core/       parameters, steps, cache, files and tables
"""
