"""A model as the judge of open answers: what it is asked, what it said, and how far it agrees with people."""
