"""Pages to look at: a star's fit or posterior, a survey's catalogue, each one HTML file.

A page carries all it needs, works from disk without a network, and is made with Bokeh (extra
``[report]``).

- `writing`: what is given, files or results, becomes one page or several;
- `star`: the page of one star; `spectrum` and `correlation` are its figures;
- `catalogue`: the page of many; `links` says which rows have a page of their own;
- `page`: the templates in ``templates/``, filled in with everything escaped.

>>> stellarfit.write_report("out/star.h5", "star.html")              # doctest: +SKIP
"""
