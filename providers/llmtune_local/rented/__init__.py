"""Training on a rented machine: the same worker and run folder, on a machine that a vendor lends for one run.

`provider.py` is the base class of such backends; a vendor gives it a `RentedVendor` (`vendor.py`) and nothing else.
`entry.py` is what runs on the machine.
"""
