"""Where the operations run: one class per kind of machine, all giving the reference's results and ledger."""
