# frozen_string_literal: true

require 'json'
require 'securerandom'

# private-chef-secrets.json: made on the first front end, carried to the others.
class Secrets
  MADE = {
    'opscode_erchef' => { 'sql_password' => 30, 'sql_ro_password' => 30 },
    'oc_bifrost' => { 'superuser_id' => 16, 'sql_password' => 50, 'sql_ro_password' => 50 },
    'oc_id' => { 'secret_key_base' => 50, 'sql_password' => 50, 'sql_ro_password' => 50 },
    'bookshelf' => { 'access_key_id' => 20, 'secret_access_key' => 40, 'sql_password' => 40, 'sql_ro_password' => 40 },
    'chef-server' => { 'superuser_key' => 64, 'webui_key' => 64 }
  }.freeze

  def self.there? = File.exist?(Places.secrets)

  # What is there, completed, with the superuser's password from chef-server.rb.
  def self.complete(settings)
    kept = there? ? JSON.parse(File.read(Places.secrets)) : {}
    MADE.each do |group, names|
      kept[group] ||= {}
      names.each { |name, bytes| kept[group][name] ||= SecureRandom.hex(bytes) }
    end
    (kept['postgresql'] ||= {})['db_superuser_password'] = settings.postgresql['db_superuser_password']
    text = JSON.pretty_generate(kept)
    Places.write(Places.secrets, text) unless there? && File.read(Places.secrets) == text
    kept
  end
end
