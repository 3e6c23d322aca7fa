-- ARGV: queue, 1 to pause it or 0 to resume it. Returns 1 if the time has changed at which a gate may let a row pass.
-- include: base
-- include: gate
-- include: gates
-- include: when_full

call(ARGV[2] == '1' and 'SADD' or 'SREM', root .. 'paused', ARGV[1])
use_gates()
for _, key in ipairs(call('HKEYS', root .. 'gates')) do
  if ARGV[2] == '1' then  -- its rows that have passed give their slots back
    local ids = call('ZRANGE', root .. 'slots:' .. key, 0, -1)
    load_states(ids)
    for _, id in ipairs(ids) do
      local row = parse(states[id])
      if row and row.status == 'pending' and queue_of(row.lane) == ARGV[1] and not gated.is_parked(row) then
        unindex(id, row)
        local place, keys, n = gated.place_of(row), gated.slots_of(row)
        for i = 1, n do gated.touch(keys[i]) end
        local names = row.run_at .. ' ' .. gated.tail_of(keys[1], place.flow, place.names)
        set_state(id, gated.with_names(row, states[id], PARKED, names))
        index(id, parse(states[id]))
      end
    end
  else
    for _, lane in ipairs(call('ZRANGE', root .. 'lines:' .. key, 0, -1)) do
      if queue_of(lane) == ARGV[1] and call('EXISTS', root .. gated.wait_key(key, lane)) == 1 then gated.touch(key) end
    end
  end
end
flush()
return admission.admit() and 1 or 0
