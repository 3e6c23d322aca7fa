-- Note the row of a schedule and its place in the indexes: '' for none.
local function set_schedule(id, row, due, outbox)
  set_field('schedules', id, row)
  set_score('schedules:due', id, due ~= '' and due)
  set_score('schedules:outbox', id, outbox ~= '' and '0')
end
