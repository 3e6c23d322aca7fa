-- include: values

call('UNLINK', values, expiry)
