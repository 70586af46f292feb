"""Many stars, perhaps on many machines: every input is one row of the catalogue.

- `targets`: what there is to fit, each star of each file once, in order;
- `engine`: stars on common pixels are fitted side by side, and one that fails fails alone;
- `catalogue`: outcomes as rows, and as a table with units, flags and aliases;
- `folder`: a survey on disk: what is asked for, and the shards that are done;
- `running`: shards made by processes of this machine or a dask cluster.
"""
