#!/bin/sh
# Gradescope runs this once, when it builds the image of the assignment.
set -e
apt-get update
apt-get install --yes python3-venv
python3 -m venv /autograder/environment
/autograder/environment/bin/pip install torch==2.13.0 numpy matplotlib tqdm
