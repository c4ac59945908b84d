# frozen_string_literal: true

require 'json'

# One group of settings, such as postgresql[...]. Chef's own takes any name; this one only those that Chef reads, so that
# a name which is wrong shows.
class Group
  def initialize(name, known)
    @name = name
    @known = known
    @values = {}
  end

  attr_reader :values

  def []=(key, value)
    check(key)
    @values[key.to_s] = value
  end

  def [](key)
    check(key)
    @values[key.to_s]
  end

  private

  def check(key)
    return if @known.include?(key.to_s)

    raise Failure, "#{@name}['#{key}'] is not an attribute of #{@name}"
  end
end

# chef-server.rb as Chef's own reads it: Ruby, evaluated within an object to which every setting is a method.
class Settings
  VALUES = %w[
    api_fqdn chef_backend_members default_orgname fips fqdn from_email insecure_addon_compat ip_version node
    notification_email topology use_chef_backend
  ].freeze
  GROUPS = {
    'bookshelf' => %w[enable storage_type vip port external url access_key_id secret_access_key],
    'dark_launch' => %w[actions quick_start new_theme private-chef],
    'data_collector' => %w[enable root_url token proxy timeout],
    'haproxy' => %w[
      enable listen local_postgresql_port remote_postgresql_port local_elasticsearch_port remote_elasticsearch_port
      leaderl_healthcheck_port etcd_port
    ],
    'ldap' => %w[base_dn bind_dn bind_password host port ssl_enabled tls_enabled system_adjective group_dn],
    'lb' => %w[api_fqdn web_ui_fqdn enable vip debug],
    'nginx' => %w[
      enable ssl_port non_ssl_port enable_non_ssl server_name url ssl_certificate ssl_certificate_key ssl_protocols
      client_max_body_size worker_processes worker_connections keepalive_timeout show_welcome_page
    ],
    'oc_bifrost' => %w[enable port db_pool_size sql_user sql_ro_user],
    'oc_id' => %w[enable port administrators sql_user sql_ro_user],
    'opscode_erchef' => %w[
      search_provider search_queue_mode search_auth_username search_auth_password search_batch_max_size
      search_batch_max_wait nginx_bookshelf_caching s3_url_expiry_window_size s3_url_ttl db_pool_size max_request_size
      depsolver_worker_count keygen_cache_size sql_user sql_ro_user reindex_sleep_min_ms reindex_sleep_max_ms
    ],
    'opscode_expander' => %w[enable],
    'opscode_solr4' => %w[enable external external_url heap_size elasticsearch_shard_count elasticsearch_replica_count],
    'postgresql' => %w[
      enable external vip port db_superuser db_superuser_password db_connection_superuser sslmode version
      max_connections shared_buffers work_mem
    ],
    'rabbitmq' => %w[enable management_enabled queue_length_monitor_enabled],
    'redis_lb' => %w[enable vip port maxmemory]
  }.freeze
  SEARCH = %w[enable external external_url vip port heap_size shard_count replica_count].freeze

  def self.read(path)
    new.tap { |settings| settings.evaluate(File.read(path, encoding: 'utf-8'), path) }
  rescue Errno::ENOENT
    raise Failure, "#{path} is not there"
  end

  def initialize
    known = GROUPS.dup
    known['elasticsearch'] = SEARCH if Places.at_least?('13')
    known['opensearch'] = SEARCH if Places.at_least?('14.14')
    @groups = known.to_h { |name, attributes| [name, Group.new(name, attributes)] }
    @values = { 'use_chef_backend' => false, 'chef_backend_members' => [] }
  end

  def evaluate(text, path)
    instance_eval(text, path, 1)
  rescue Failure, StandardError, SyntaxError => e
    line = (e.backtrace || []).find { |place| place.start_with?(path) } || path
    raise Failure, "Error loading file: #{line[/\A.*?:\d+|\A[^:]+/]}: #{e.message}"
  end

  # `postgresql['vip'] = …` asks for the group, `fqdn "…"` sets a value, `fqdn` gives it.
  def method_missing(name, *arguments)
    key = name.to_s
    return @groups[key] if @groups.key?(key) && arguments.empty?
    raise Failure, "#{key} is not a setting of chef-server.rb" unless VALUES.include?(key)

    arguments.empty? ? @values[key] : @values[key] = arguments.first
  end

  def respond_to_missing?(name, private = false)
    @groups.key?(name.to_s) || VALUES.include?(name.to_s) || super
  end

  # All that was set, as JSON.
  def shown
    groups = @groups.transform_values(&:values).reject { |_, values| values.empty? }
    JSON.pretty_generate(@values.merge(groups))
  end

  # One attribute, "" for a group that this release does not have.
  def at(group, key) = @groups.key?(group) ? @groups[group][key] : nil
end
