"""Small programs to copy from; README.md beside this file lists them."""
