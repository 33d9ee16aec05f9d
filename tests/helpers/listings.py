"""What lies in a folder, to tell whether anything was changed."""

import hashlib
import os


def listing(folder):
    """Return the digest of each file, folders and links included, but for what a run itself writes."""
    paths = [p for p in folder.rglob("*") if not p.name.startswith("iteration_") and p.name != "last.ckpt"]
    return {
        path: os.readlink(path) if path.is_symlink() else path.is_file() and hashlib.md5(path.read_bytes()).hexdigest()
        for path in paths
    }
