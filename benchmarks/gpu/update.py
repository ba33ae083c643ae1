"""x"""

def run(*args):
    """x"""
