-- Sends each new radiograph to cxrd. Its answers have the modality OT, so they are not sent round again.
function OnStoredInstance(instanceId, tags, metadata)
  if tags['Modality'] == 'CR' or tags['Modality'] == 'DX' then
    SendToModality(instanceId, 'cxrd')
  end
end
