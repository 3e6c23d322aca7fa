call('DEL', root .. 'room')  -- a write that needs no memory; the key does not exist
