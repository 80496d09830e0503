"""What is measured of Weft, beside the real packages of others: see README.md in this folder."""
