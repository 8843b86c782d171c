module load cray-python
. "$HOME"/rankmap/bin/activate