# frozen_string_literal: true

require 'fileutils'
require 'time'

# What stops a command; its message is all that people see.
class Failure < StandardError; end

# Where everything is. CHEF_STANDIN_ROOT puts all of it below another folder.
module Places
  ROOT = ENV.fetch('CHEF_STANDIN_ROOT', '')

  module_function

  def chef_server_rb = "#{ROOT}/etc/opscode/chef-server.rb"
  def secrets = "#{ROOT}/etc/opscode/private-chef-secrets.json"
  def migration_level = "#{ROOT}/var/opt/opscode/upgrades/migration-level"
  def sentinel = "#{ROOT}/var/opt/opscode/bootstrapped"
  def haproxy = "#{ROOT}/var/opt/opscode/haproxy"
  def calls = "#{ROOT}/var/log/opscode/calls.log"

  def version
    file = File.expand_path('../version', __dir__)
    File.exist?(file) ? File.read(file).strip : ENV.fetch('CHEF_STANDIN_VERSION', '15.10.117')
  end

  # Whether this release is `text` or newer.
  def at_least?(text) = Gem::Version.new(version) >= Gem::Version.new(text)

  def log_call(arguments)
    FileUtils.mkdir_p(File.dirname(calls))
    File.open(calls, 'a', 0o600) { |file| file.puts("#{Time.now.utc.iso8601} #{arguments.join(' ')}") }
  end

  def write(path, text, mode = 0o600)
    FileUtils.mkdir_p(File.dirname(path))
    File.open(path, File::WRONLY | File::CREAT | File::TRUNC, mode) { |file| file.write(text) }
    File.chmod(mode, path)
  end
end
