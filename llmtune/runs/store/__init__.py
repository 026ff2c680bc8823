"""The database behind runs: schema, migrations, records and leases."""
