"""The classroom: an edition of diy.py that students fill in, and the grader that judges it.

python -m classroom.edition --stages 1-5 --out handout
python -m classroom.grade submissions --out graded
python -m classroom.grade --prove
"""
